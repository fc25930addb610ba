/**
 * Machines that move between simulated nodes: no bytes, but the same words in the same order over the same way from node
 * to node as the real ones, the same notes on both sides, and the same refusals.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  type AbandonArguments,
  type Asked,
  DriverError,
  type DriverLog,
  type Incoming,
  type InstanceSpec,
  type InstanceStatus,
  type Message,
  type MigrateArguments,
  type MigrationOutcome,
  type MigrationProgress,
  type MigrationWire,
  type Ref,
  Sendings,
} from '#libs/drivers/contract';
import type { SimFaults } from './faults.js';
import { type SentDisks, sentDisks, takeInDisks } from './lone-disks.js';
import type { SharedContent } from './shared-content.js';
import type { SimInstance, SimState } from './state.js';

const askAgainMs = 200;
/** How long the other node may be silent before one that is to be had back is. */
const silenceMs = 5_000;

/** What goes over in place of memory and disks. */
interface Luggage extends SentDisks {
  boots: number;
  startedAt: number;
}

export class SimMoves {
  private readonly sendings = new Sendings();

  constructor(
    private readonly state: SimState,
    private readonly faults: SimFaults,
    private readonly wire: MigrationWire,
    private readonly log: DriverLog,
    private readonly shared: SharedContent,
  ) {}

  /** The status of one that is on its way; undefined: it is on none, or has come. */
  async apply(ref: Ref, spec: InstanceSpec): Promise<InstanceStatus | undefined> {
    const before = this.state.instances.get(ref.id);
    if (before?.outgoing) return statusOf(before);
    if (spec.incoming?.fenced) return this.close(ref, spec, spec.incoming, spec.incoming.fenced);
    if (spec.incoming) return this.wait(ref, spec, spec.incoming, before);
    if (!before?.awaited) return undefined;
    this.wire.forget(before.awaited.operationId);
    delete before.awaited;
    return undefined;
  }

  drop(id: string): void {
    const awaited = this.state.instances.get(id)?.awaited;
    if (awaited) this.wire.forget(awaited.operationId);
  }

  interrupt(id: string, args: AbandonArguments): void {
    const { operationId, to } = args;
    // One that is past its sending asks the other node until it answers, wherever that is now.
    const outgoing = this.state.instances.get(id)?.outgoing;
    if (to && outgoing?.args.operationId === operationId) outgoing.args.to = to;
    this.sendings.interrupt(id, args);
  }

  async migrate(
    ref: Ref,
    args: MigrateArguments,
    signal: AbortSignal,
    onProgress: (progress: MigrationProgress) => void,
  ): Promise<MigrationOutcome> {
    const instance = this.require(ref);
    const { operationId, mode } = args;
    if (instance.outgoing?.args.operationId !== operationId) {
      const wasRunning = instance.powerState === 'running';
      if (wasRunning && mode === 'cold' && !args.mayStop) {
        throw new DriverError('in_use', 'The machine runs, and may not be stopped for it.', { permanent: true });
      }
      instance.outgoing = { args, phase: 'sending', wasRunning };
    }
    // The other node may be elsewhere than when it began.
    instance.outgoing.args = args;
    await this.state.save();
    return this.sendings.during(ref.id, operationId, async ({ abandoned, settled }) => {
      try {
        if (instance.outgoing!.phase === 'sending') {
          await this.send(instance, args, AbortSignal.any([signal, abandoned.signal]), onProgress);
        }
      } catch (error) {
        signal.throwIfAborted();
        await this.takeBack(instance);
        const message = error instanceof Error ? error.message : String(error);
        const code = error instanceof DriverError ? error.code : 'migration_failed';
        throw new DriverError(code, message, { permanent: true, cause: error });
      }
      return this.letGo(instance, AbortSignal.any([signal, settled.signal]));
    });
  }

  async abandon(
    ref: Ref,
    { operationId, to, settled }: AbandonArguments,
    signal: AbortSignal,
  ): Promise<MigrationOutcome> {
    const instance = this.require(ref);
    const { outgoing } = instance;
    if (outgoing?.args.operationId !== operationId) return { moved: false };
    if (to) outgoing.args.to = to;
    if (settled === 'there') {
      outgoing.phase = 'released';
      await this.state.save();
      return { moved: true };
    }
    if (outgoing.phase === 'sending' || (settled === 'here' && outgoing.phase !== 'released')) {
      await this.takeBack(instance);
      return { moved: false };
    }
    return this.sendings.during(ref.id, operationId, (sending) =>
      this.letGo(instance, AbortSignal.any([signal, sending.settled.signal]), silenceMs),
    );
  }

  private async wait(ref: Ref, spec: InstanceSpec, incoming: Incoming, before: SimInstance | undefined) {
    const instance = await this.note(ref, spec, incoming, before);
    this.wire.expect(incoming.operationId, incoming.from, (asked) => this.serve(instance, asked));
    return statusOf(instance);
  }

  /** The sender is behind a fence, and heard no more: what it has said and sent until now decides whether it runs here. */
  private async close(
    ref: Ref,
    spec: InstanceSpec,
    incoming: Incoming,
    { mayRun }: NonNullable<Incoming['fenced']>,
  ): Promise<InstanceStatus> {
    this.wire.forget(incoming.operationId);
    const instance = await this.note(ref, spec, incoming, this.state.instances.get(ref.id));
    const awaited = instance.awaited!;
    awaited.closed = true;
    const isLetGo = awaited.phase === 'released' || (awaited.phase === 'arrived' && awaited.left && mayRun);
    if (isLetGo) await this.letRun(instance, awaited);
    await this.state.save();
    return statusOf(instance);
  }

  private async note(ref: Ref, spec: InstanceSpec, incoming: Incoming, before: SimInstance | undefined) {
    if (before && before.awaited?.operationId !== incoming.operationId) {
      throw new DriverError('in_use', 'An older copy of the machine is still on this node; it goes first.');
    }
    const instance: SimInstance = before ?? {
      ...{ ref, spec, powerState: 'paused', boots: 0, startedAt: 0 },
      awaited: { ...incoming, phase: 'waiting' },
    };
    this.state.instances.set(ref.id, instance);
    await this.state.save();
    return instance;
  }

  private async serve(instance: SimInstance, { channel, question, accept }: Asked): Promise<void> {
    const { awaited } = instance;
    const target = { kind: channel, id: instance.ref.id, name: instance.spec.name };
    if (awaited) await this.faults.strike('apply', target);
    if (!awaited || awaited.closed) {
      throw new DriverError('not_expected', 'The machine is not awaited here.', { permanent: true });
    }
    if (channel === 'luggage' && awaited.phase === 'waiting')
      await this.takeIn(instance, question as unknown as Luggage);
    if (channel === 'state' && question.off === true && awaited.phase === 'arrived') awaited.left = true;
    if (channel === 'release' && awaited.phase !== 'waiting') await this.letRun(instance, awaited);
    await this.state.save();
    (await accept({ phase: awaited.phase })).end();
  }

  /** Again: the same. */
  private async letRun(instance: SimInstance, awaited: NonNullable<SimInstance['awaited']>): Promise<void> {
    awaited.phase = 'released';
    for (const { diskId } of instance.spec.disks) await this.takeOver(diskId, awaited.operationId);
    if (awaited.mode === 'live') instance.powerState = 'running';
  }

  /** A disk that stayed on shared storage is this node's, since the other has let go of it. Again: the same. */
  private async takeOver(diskId: string, operationId: string): Promise<void> {
    const known = this.state.disks.get(diskId);
    const place = known?.spec.shared;
    if (!known || !place || known.incoming !== operationId || !known.spec.incoming?.stays) return;
    const storage = this.shared.on(place);
    const owner = await storage.ownerOf(diskId);
    await storage.take(diskId, place.node, owner === null ? [] : [owner]);
    const { incoming: _incoming, ...rest } = known;
    const content = await this.shared.read(diskId, true);
    this.state.disks.set(diskId, { ...rest, ...content! });
  }

  private async takeIn(instance: SimInstance, { boots, startedAt, disks, snapshots }: Luggage): Promise<void> {
    await takeInDisks(this.state, this.shared, instance.awaited!.operationId, { disks, snapshots });
    Object.assign(instance, { boots, startedAt });
    instance.awaited!.phase = 'arrived';
  }

  private async send(
    instance: SimInstance,
    args: MigrateArguments,
    signal: AbortSignal,
    onProgress: (progress: MigrationProgress) => void,
  ): Promise<void> {
    const totalBytes = instance.spec.memoryMiB * 1024 ** 2;
    onProgress({ doneBytes: 0, totalBytes });
    await this.faults.strike('operate', { ...instance.ref, name: instance.spec.name }, signal);
    signal.throwIfAborted();
    const sent = args.disks.filter((id) => !args.shared?.includes(id));
    const { boots, startedAt } = instance;
    await this.ask(args, 'luggage', { boots, startedAt, ...sentDisks(this.state, sent) }, signal);
    onProgress({ doneBytes: totalBytes, totalBytes });
    instance.outgoing!.phase = 'gone';
    instance.powerState = 'stopped';
    await this.state.save();
  }

  /** Until it is the other's. It is had back by the other's word, or by its silence for so long while it has not been let go. */
  private async letGo(
    instance: SimInstance,
    signal: AbortSignal,
    patienceMs = Number.POSITIVE_INFINITY,
  ): Promise<MigrationOutcome> {
    const end = Date.now() + patienceMs;
    while (instance.outgoing && instance.outgoing.phase !== 'released') {
      const { args, phase } = instance.outgoing;
      const said = await (phase === 'gone'
        ? this.heard(args, 'state', { off: true }, signal)
        : this.heard(args, 'release', {}, signal));
      if (said === 'waiting' || (said === undefined && phase === 'gone' && Date.now() > end)) {
        await this.takeBack(instance);
        const message = `Node ${args.to.node} has lost the machine that it was sent; here it starts again.`;
        throw new DriverError('migration_failed', message, { permanent: true });
      }
      if (said === 'released') instance.outgoing.phase = said;
      else if (said === 'arrived' && phase === 'gone') instance.outgoing.phase = 'releasing';
      else await sleep(askAgainMs);
      await this.state.save();
    }
    return { moved: true };
  }

  /** This node's again: as it runs, or from its disks. */
  private async takeBack(instance: SimInstance): Promise<void> {
    const { phase, wasRunning } = instance.outgoing!;
    if (phase !== 'sending' && wasRunning) {
      Object.assign(instance, { powerState: 'running', boots: instance.boots + 1 });
    }
    delete instance.outgoing;
    await this.state.save();
  }

  /** How far it has come there; undefined: no answer yet. */
  private async heard(args: MigrateArguments, channel: string, question: object, signal: AbortSignal) {
    signal.throwIfAborted();
    try {
      return (await this.ask(args, channel, question, signal)).phase;
    } catch (error) {
      signal.throwIfAborted();
      this.log.warn({ err: error, operationId: args.operationId }, 'the other node does not answer yet');
      return undefined;
    }
  }

  private async ask(args: MigrateArguments, channel: string, question: object, signal: AbortSignal): Promise<Message> {
    const { to, operationId } = args;
    const { answer, stream } = await this.wire.open(to, operationId, channel, { ...question }, signal);
    stream.destroy();
    return answer;
  }

  private require(ref: Ref): SimInstance {
    const instance = this.state.instances.get(ref.id);
    if (instance) return instance;
    throw new DriverError('not_found', `There is no instance ${ref.id} on this node.`, { permanent: true });
  }
}

/** What is told of one, also while it is on its way. */
export function statusOf({ powerState, outgoing, awaited }: SimInstance): InstanceStatus {
  if (outgoing) return { powerState: outgoing.wasRunning ? 'running' : 'stopped' };
  if (!awaited) return { powerState };
  const closed = awaited.closed && { closed: awaited.closed };
  if (awaited.phase === 'released') return { powerState: awaited.mode === 'cold' ? 'stopped' : powerState, ...closed };
  return { powerState: 'paused', ...closed };
}
