/**
 * The side that a machine comes to: all is made ready for it, QEMU takes in its memory and disks, or their files come; and
 * then it waits, paused or off, until the node that sent it says that it is off there. Only then it runs here. Behind that
 * node's fence the controller's word takes the place of its last one. Knows nothing of why it moves.
 */
import { existsSync } from 'node:fs';
import { cpus } from 'node:os';
import {
  type Asked,
  type DriverContext,
  DriverError,
  type Incoming,
  type InstanceSpec,
  type Message,
  type Ref,
} from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import type { Accelerator } from '../accelerator.js';
import { type DefinitionParts, definitionOf } from '../definition.js';
import type { Disks } from '../disks.js';
import { Locks } from '../locks.js';
import { monitor } from '../monitor.js';
import { domainName, type Places } from '../places.js';
import { destroyDomain, isActive } from '../power.js';
import { seedFiles, wantSeed } from '../seed.js';
import type { SnapshotRecords } from '../snapshot-records.js';
import { domainState, isNoDomain, type Virsh } from '../virsh.js';
import { emptyDisk, settleDisk, takeDisk } from './disk.js';
import { takeFile } from './incoming-file.js';
import { awaitedOf, dropAwaited, noteAwaited } from './records.js';
import { carryBothWays, channels, MigrationSockets, type SocketChannel } from './sockets.js';

export interface ArrivalParts extends DefinitionParts {
  context: DriverContext;
  runner: Runner;
  virsh: Virsh;
  places: Places;
  disks: Disks;
  snapshots: SnapshotRecords;
  accelerator: Accelerator;
  /** Where the machine's / lies for this process; empty unless it looks into another mount namespace. */
  root: string;
}

type Phase = 'waiting' | 'arrived' | 'released';

/** virDomainPausedReason: by a user; a machine that is still coming in is paused for another reason. */
const pausedByUser = 1;
const never = new AbortController().signal;

export class Arrivals {
  private readonly locks = new Locks();

  constructor(private readonly parts: ArrivalParts) {}

  /** Makes ready for a machine, and lets the sender in. Undo: `drop`. Again: the same. */
  async expect(ref: Ref, spec: InstanceSpec, incoming: Incoming): Promise<void> {
    const { places, context } = this.parts;
    const place = places.of(ref.id);
    const known = await awaitedOf(place);
    if (!known && (await this.isHere(ref.id))) {
      throw new DriverError('in_use', 'An older copy of the machine is still on this node; it goes first.');
    }
    if (known && known.operationId !== incoming.operationId) await this.drop(ref.id);
    await places.claim(ref);
    if (known?.operationId !== incoming.operationId) await noteAwaited(place, { ...incoming, released: false });
    await wantSeed(place, seedFiles(ref, spec));
    if (incoming.fenced) return this.close(ref, spec, incoming, incoming.fenced);
    context.migration.expect(incoming.operationId, incoming.from, (asked) => this.serve(ref, spec, incoming, asked));
  }

  /** The controller says that it is this node's now. */
  async settle(id: string): Promise<void> {
    const place = this.parts.places.of(id);
    const known = await awaitedOf(place);
    if (!known) return;
    this.parts.context.migration.forget(known.operationId);
    await new MigrationSockets(this.parts.root, known.operationId).remove();
    await dropAwaited(place);
  }

  /** Takes away what has come of it, and lets nobody in any more. */
  async drop(id: string): Promise<void> {
    const known = await awaitedOf(this.parts.places.of(id));
    if (!known) return;
    this.parts.context.migration.forget(known.operationId);
    await this.locks.hold([id], never, () => this.clear(id));
    await this.settle(id);
  }

  /**
   * The sender is behind a fence: nobody hears it from now on, and what it has said until now decides. What is whole here and off
   * there is let run, unless the sender may have been told since to have it back. Again: the same.
   */
  private async close(
    ref: Ref,
    spec: InstanceSpec,
    incoming: Incoming,
    { mayRun }: NonNullable<Incoming['fenced']>,
  ): Promise<void> {
    const place = this.parts.places.of(ref.id);
    this.parts.context.migration.forget(incoming.operationId);
    await this.locks.hold([ref.id], never, async () => {
      const known = (await awaitedOf(place))!;
      if (!known.closed) await noteAwaited(place, { ...known, closed: true });
      if (known.released || (known.left && mayRun)) await this.release(ref.id, spec, incoming);
    });
  }

  private async isHere(id: string): Promise<boolean> {
    const { places, virsh, context } = this.parts;
    return existsSync(places.of(id).dir) || (await virsh.state(domainName(context.installation, id))) !== null;
  }

  private async serve(ref: Ref, spec: InstanceSpec, incoming: Incoming, asked: Asked): Promise<void> {
    const { channel, question } = asked;
    if ((channels as readonly string[]).includes(channel)) return this.carry(incoming, channel as SocketChannel, asked);
    if (channel === 'file') return this.takeFile(ref, spec, incoming, question, asked);
    const answer = await this.locks.hold([ref.id], never, () => this.answer(channel, question, ref, spec, incoming));
    const stream = await asked.accept(answer);
    stream.end();
  }

  private async answer(
    channel: string,
    question: Message,
    ref: Ref,
    spec: InstanceSpec,
    incoming: Incoming,
  ): Promise<Message> {
    if ((await awaitedOf(this.parts.places.of(ref.id)))?.closed) {
      throw new DriverError('not_expected', 'This node expects nothing of that operation any more.', {
        permanent: true,
      });
    }
    switch (channel) {
      case 'state':
        return { phase: await this.state(ref.id, spec, incoming, question.off === true) };
      case 'prepare':
        return this.prepare(ref, spec, incoming);
      case 'release':
        return { phase: await this.release(ref.id, spec, incoming) };
      default:
        throw new DriverError('unknown_channel', `There is no channel ${channel}.`, { permanent: true });
    }
  }

  /** `isOff`: the sender says that it is off there. Written down before it is answered, so that it holds whatever becomes of it. */
  private async state(id: string, spec: InstanceSpec, incoming: Incoming, isOff: boolean): Promise<Phase> {
    const place = this.parts.places.of(id);
    const phase = await this.phase(id, spec, incoming);
    const known = await awaitedOf(place);
    const left = isOff && phase === 'arrived';
    if (known && !known.released && (known.left ?? false) !== left) await noteAwaited(place, { ...known, left });
    return phase;
  }

  private async phase(id: string, spec: InstanceSpec, incoming: Incoming): Promise<Phase> {
    const { places, virsh, disks, context } = this.parts;
    if ((await awaitedOf(places.of(id)))?.released) return 'released';
    if (incoming.mode === 'cold') {
      for (const { diskId } of spec.disks) {
        const record = await disks.record(diskId);
        const stays = record?.incoming === incoming.operationId && record.staysFrom !== undefined;
        if (!stays && record?.arrived !== incoming.operationId) return 'waiting';
      }
      return 'arrived';
    }
    const state = await virsh.state(domainName(context.installation, id));
    return state?.state === domainState.paused && state.reason === pausedByUser ? 'arrived' : 'waiting';
  }

  /** Ready for a new try, whatever an earlier one has left. */
  private async prepare(ref: Ref, spec: InstanceSpec, incoming: Incoming): Promise<Message> {
    const { disks, places, accelerator, root } = this.parts;
    if ((await this.phase(ref.id, spec, incoming)) === 'released') {
      throw new DriverError('conflict', 'The machine runs here already.', { permanent: true });
    }
    await noteAwaited(places.of(ref.id), { ...incoming, released: false });
    await this.clear(ref.id);
    const wanted = spec.disks.map((disk) => ({ ...disk, path: disks.path(disk.diskId) }));
    const stay: string[] = [];
    for (const { diskId } of wanted) {
      if ((await disks.record(diskId))?.staysFrom !== undefined) stay.push(diskId);
      await emptyDisk(this.parts.runner, disks, diskId, incoming.operationId);
      await disks.attach(diskId, ref.id, incoming.operationId);
    }
    const { seed, consoleLog } = places.of(ref.id);
    await new MigrationSockets(root, incoming.operationId).prepare();
    return {
      accelerator,
      processor: processorOf(accelerator),
      definition: await definitionOf(this.parts, ref, spec, wanted),
      seed,
      consoleLog,
      disks: Object.fromEntries(wanted.map(({ diskId, path }) => [diskId, path])),
      stay,
    };
  }

  private async clear(id: string): Promise<void> {
    const { virsh, context } = this.parts;
    const domain = domainName(context.installation, id);
    await destroyDomain({ virsh }, domain);
    try {
      await virsh.run(['undefine', domain]);
    } catch (error) {
      if (!isNoDomain(error)) throw error;
    }
  }

  /** The sender says that it is off there. Written down before it runs, so that it can never be had back after that. */
  private async release(id: string, spec: InstanceSpec, incoming: Incoming): Promise<Phase> {
    const { places, disks, virsh, context } = this.parts;
    const phase = await this.phase(id, spec, incoming);
    if (phase === 'waiting') return phase;
    const place = places.of(id);
    if (phase === 'arrived') await noteAwaited(place, { ...(await awaitedOf(place)), ...incoming, released: true });
    for (const { diskId } of spec.disks) await settleDisk(disks, diskId, incoming.operationId);
    const domain = domainName(context.installation, id);
    const state = await virsh.state(domain);
    if (incoming.mode === 'live' && isActive(state) && state?.state === domainState.paused) {
      await virsh.run(['resume', domain]);
      // The network learns at once where it is; the announcements of its arrival may have come before that.
      await monitor(virsh, domain, 'announce-self', { initial: 50, max: 550, rounds: 5, step: 100 });
    }
    return 'released';
  }

  private async carry(incoming: Incoming, channel: SocketChannel, asked: Asked): Promise<void> {
    const socket = await new MigrationSockets(this.parts.root, incoming.operationId).connect(channel);
    carryBothWays(await asked.accept({}), socket);
  }

  private async takeFile(ref: Ref, spec: InstanceSpec, incoming: Incoming, question: Message, asked: Asked) {
    const { places } = this.parts;
    if (question.name === 'seed') {
      const { seed } = places.of(ref.id);
      return takeFile(seed, question, asked, async () => undefined);
    }
    const id = String(question.diskId);
    if (!spec.disks.some(({ diskId }) => diskId === id)) {
      throw new DriverError('not_expected', 'The disk is none of the machine’s.', { permanent: true });
    }
    await takeDisk(this.parts, { ...ref, kind: 'disk', id }, incoming.operationId, asked);
  }
}

/** What guests see of the processor where they see it as it is (host-passthrough). */
export function processorOf(accelerator: Accelerator): string {
  return accelerator === 'kvm' ? (cpus()[0]?.model ?? '') : 'emulated';
}
