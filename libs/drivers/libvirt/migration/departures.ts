/**
 * The side that a machine leaves. Running with its memory (live), or off with its disks as files (cold); either way it
 * runs nowhere between being off here and being let go there, and is let go only when that is written down. A try that an
 * agent's death cut short is gone on with, or begun anew: what both sides have noted and what libvirt says decides.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type AbandonArguments,
  type DriverContext,
  DriverError,
  type Message,
  type MigrateArguments,
  type MigrationOutcome,
  type MigrationProgress,
  type Ref,
  Sendings,
} from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import type { Accelerator } from '../accelerator.js';
import type { Disks } from '../disks.js';
import { domainName, type Place, type Places } from '../places.js';
import { isActive, type Power, powerStateOf, startDomain, stopDomain } from '../power.js';
import { ensureSeed } from '../seed.js';
import type { SnapshotRecords } from '../snapshot-records.js';
import type { Virsh } from '../virsh.js';
import { isMigrate } from './arguments.js';
import { abortLive, sendLive } from './live.js';
import { dropOutgoing, noteOutgoing, type Outgoing, outgoingOf } from './records.js';
import { sendDisk } from './send.js';

export interface DepartureParts extends Power {
  context: DriverContext;
  runner: Runner;
  virsh: Virsh;
  places: Places;
  disks: Disks;
  snapshots: SnapshotRecords;
  accelerator: Accelerator;
  root: string;
}

/** libvirt's virDomainShutoffReason. */
const migratedAway = 4;
/** How long the other node may be silent: before the controller has to say what becomes of it, and before that is not clear (ms). */
const goneLimitMs = 60_000;
const releaseLimitMs = 60 * 60_000;
const askAgainMs = 1000;

export class Departures {
  private readonly sendings = new Sendings();
  /** By operation: where the other node is now, for one that asks it already. */
  private readonly elsewhere = new Map<string, MigrateArguments['to']>();

  constructor(private readonly parts: DepartureParts) {}

  /** Ends a send of this operation that is under way; one that is past that is told where the other node is. */
  interrupt(id: string, args: AbandonArguments): void {
    const { operationId, to } = args;
    if (to) this.elsewhere.set(operationId, to);
    this.sendings.interrupt(id, args);
  }

  /**
   * Sends it away; resolves when it is the other node's. Throws DriverError when it is still this node's, and as it was;
   * `peer_unreachable` when it is off and the other node is silent, so that the controller has to say; `unclear` when that one
   * cannot say whether it runs there.
   */
  async migrate(
    ref: Ref,
    args: unknown,
    signal: AbortSignal,
    onProgress: (progress: MigrationProgress) => void,
  ): Promise<MigrationOutcome> {
    if (!isMigrate(args)) {
      throw new DriverError('invalid_spec', 'The migration’s arguments are wrong.', { permanent: true });
    }
    const outgoing = await this.begin(ref, args);
    return this.sendings.during(ref.id, args.operationId, async ({ abandoned, settled }) => {
      try {
        const both = AbortSignal.any([signal, abandoned.signal]);
        if (outgoing.phase === 'sending') {
          await this.parts.disks.changing(args.disks, both, () => this.send(ref, args, outgoing, both, onProgress));
        }
      } catch (error) {
        // Cut short by the agent's end: the next one goes on.
        signal.throwIfAborted();
        await this.takeBack(ref);
        throw asFailure(error);
      }
      const left: Outgoing = outgoing.phase === 'sending' ? { ...outgoing, phase: 'gone' } : outgoing;
      return this.letGo(ref, left, AbortSignal.any([signal, settled.signal]), false);
    });
  }

  /** Takes a send back, unless the machine is whole there and off here: then it moves on. */
  async abandon(
    ref: Ref,
    { operationId, to, settled }: AbandonArguments,
    signal: AbortSignal,
  ): Promise<MigrationOutcome> {
    this.elsewhere.delete(operationId);
    const place = this.parts.places.of(ref.id);
    const known = await outgoingOf(place);
    if (known?.operationId !== operationId) return { moved: false };
    const outgoing = await this.redirected(place, known, to);
    if (settled === 'there') {
      await noteOutgoing(place, { ...outgoing, phase: 'released' });
      return { moved: true };
    }
    const isHere = outgoing.phase === 'sending' && !(await this.hasLeft(ref, outgoing));
    if (isHere || (settled === 'here' && outgoing.phase !== 'released')) {
      await this.takeBack(ref);
      return { moved: false };
    }
    const left: Outgoing = outgoing.phase === 'sending' ? { ...outgoing, phase: 'gone' } : outgoing;
    return this.sendings.during(ref.id, operationId, (sending) =>
      this.letGo(ref, left, AbortSignal.any([signal, sending.settled.signal]), true),
    );
  }

  private async begin(ref: Ref, args: MigrateArguments): Promise<Outgoing> {
    const { places, virsh, context } = this.parts;
    const place = places.of(ref.id);
    const known = await outgoingOf(place);
    if (known?.operationId === args.operationId) return this.redirected(place, known, args.to);
    if (known && known.phase !== 'sending') {
      throw new DriverError('conflict', 'The machine has been sent to another node already.', { permanent: true });
    }
    const state = await virsh.state(domainName(context.installation, ref.id));
    const wasRunning = isActive(state);
    const { operationId, to, mode } = args;
    if (wasRunning && mode === 'cold' && !args.mayStop) {
      throw new DriverError('in_use', 'The machine runs, and may not be stopped for it.', { permanent: true });
    }
    if (!wasRunning && mode === 'live') {
      throw new DriverError('not_running', 'The machine is off; it can be moved as it is.', { permanent: true });
    }
    const outgoing: Outgoing = { operationId, to, mode, phase: 'sending', wasRunning };
    await noteOutgoing(place, outgoing);
    return outgoing;
  }

  /** The other node may be elsewhere than when it began. */
  private async redirected(place: Place, known: Outgoing, to = known.to): Promise<Outgoing> {
    if (known.to.address === to.address) return known;
    const outgoing = { ...known, to };
    await noteOutgoing(place, outgoing);
    return outgoing;
  }

  /** Until it is whole there and off here. */
  private async send(
    ref: Ref,
    args: MigrateArguments,
    outgoing: Outgoing,
    signal: AbortSignal,
    onProgress: (progress: MigrationProgress) => void,
  ): Promise<void> {
    if (outgoing.mode === 'cold') return this.sendCold(ref, args, outgoing, signal, onProgress);
    if (await this.hasLeft(ref, outgoing)) return;
    try {
      await sendLive(this.parts, ref, outgoing, signal, onProgress);
    } catch (error) {
      // Whatever became of the last answer: libvirt says so itself when it has gone.
      if (signal.aborted || !(await this.hasLeft(ref, outgoing))) throw error;
    }
  }

  /** libvirt has sent the running machine away, as far as it knows. */
  private async hasLeft(ref: Ref, { mode }: Outgoing): Promise<boolean> {
    const { virsh, context } = this.parts;
    const state = await virsh.state(domainName(context.installation, ref.id));
    return mode === 'live' && !isActive(state) && state?.reason === migratedAway;
  }

  private async sendCold(
    ref: Ref,
    args: MigrateArguments,
    outgoing: Outgoing,
    signal: AbortSignal,
    onProgress: (progress: MigrationProgress) => void,
  ): Promise<void> {
    const { context } = this.parts;
    await stopDomain(this.parts, domainName(context.installation, ref.id), signal);
    const total = { doneBytes: 0, totalBytes: 0 };
    for (const id of args.disks.filter((disk) => !args.shared?.includes(disk))) {
      await sendDisk(this.parts, id, outgoing, signal, (done, all) => {
        total.doneBytes += done;
        total.totalBytes += all;
        onProgress({ ...total });
      });
    }
  }

  /**
   * The last part. From `releasing` on there is no way back but by the controller's word. `isAbandoned`: before that
   * the other node's silence is enough. By itself this node does not go by silence: what it said may have been heard, and would let
   * the machine run there once this node is behind a fence.
   */
  private async letGo(
    ref: Ref,
    outgoing: Outgoing,
    signal: AbortSignal,
    isAbandoned: boolean,
  ): Promise<MigrationOutcome> {
    const place = this.parts.places.of(ref.id);
    const { node } = outgoing.to;
    if (outgoing.phase === 'released') return { moved: true };
    if (outgoing.phase === 'gone') {
      await noteOutgoing(place, outgoing);
      const said = await this.ask(outgoing, 'state', { off: true }, goneLimitMs, signal);
      if (said === null && !isAbandoned) {
        const message = `The machine is off, and node ${node} does not say whether it is whole there.`;
        throw new DriverError('peer_unreachable', message, { permanent: true });
      }
      if (said === null || said === 'waiting') {
        await this.takeBack(ref);
        const message = `Node ${node} has lost the machine that it was sent; here it starts again, as after a power cut.`;
        throw new DriverError('migration_failed', message, { permanent: true });
      }
    }
    await noteOutgoing(place, { ...outgoing, phase: 'releasing' });
    if ((await this.ask(outgoing, 'release', {}, releaseLimitMs, signal)) !== 'released') {
      throw new DriverError('unclear', `Node ${node} does not say whether it runs the machine that it was sent.`);
    }
    await noteOutgoing(place, { ...outgoing, phase: 'released' });
    return { moved: true };
  }

  /** The other node's phase; null: it does not answer within the limit. */
  private async ask(
    outgoing: Outgoing,
    channel: 'state' | 'release',
    question: Message,
    limitMs: number,
    signal: AbortSignal,
  ): Promise<string | null> {
    const { operationId } = outgoing;
    for (const end = Date.now() + limitMs; ; await sleep(askAgainMs)) {
      signal.throwIfAborted();
      const to = this.elsewhere.get(operationId) ?? outgoing.to;
      try {
        const { answer, stream } = await this.parts.context.migration.open(to, operationId, channel, question, signal);
        stream.destroy();
        return String(answer.phase);
      } catch (error) {
        signal.throwIfAborted();
        this.parts.context.log.warn({ err: error, operationId, channel }, 'the other node does not answer yet');
        if (Date.now() > end) return null;
      }
    }
  }

  /** This node's again, and as it was. Nothing runs there: it was not let go. */
  private async takeBack(ref: Ref): Promise<void> {
    const { places, context, runner, virsh } = this.parts;
    const place = places.of(ref.id);
    const outgoing = await outgoingOf(place);
    // Before it runs here: whoever goes on after a crash is not to say that it is off.
    if (outgoing) await noteOutgoing(place, { ...outgoing, phase: 'sending' });
    const domain = domainName(context.installation, ref.id);
    if (outgoing?.mode === 'live') await abortLive(this.parts, domain);
    const state = await virsh.state(domain);
    // What its guest has switched off itself meanwhile stays off.
    const isLeft = outgoing?.mode === 'live' && powerStateOf(state) === 'stopped';
    if (outgoing?.wasRunning && !isLeft) {
      if (!isActive(state)) await ensureSeed(runner, place);
      await startDomain(this.parts, domain);
    }
    await dropOutgoing(place);
  }
}

/** As it was before: trying the same again is the controller's business. */
function asFailure(error: unknown): unknown {
  if (!(error instanceof DriverError)) return error;
  return new DriverError(error.code, error.message, { permanent: true, cause: error });
}
