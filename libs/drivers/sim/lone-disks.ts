/**
 * Disks that move between simulated nodes without a machine: no bytes, but the way from node to node is the real one. And what
 * comes with a disk, whether alone or with its machine.
 */
import {
  type AbandonArguments,
  type Asked,
  DriverError,
  type Incoming,
  type MigrateArguments,
  type MigrationOutcome,
  type MigrationWire,
  type Ref,
} from '#libs/drivers/contract';
import type { SimFaults } from './faults.js';
import type { SharedContent } from './shared-content.js';
import type { SimDisk, SimSnapshot, SimState } from './state.js';

export interface SentDisks {
  disks: SimDisk[];
  snapshots: SimSnapshot[];
}

/** What of these disks goes over. */
export function sentDisks(state: SimState, ids: readonly string[]): SentDisks {
  return {
    disks: ids.flatMap((id) => state.disks.get(id) ?? []),
    snapshots: [...state.snapshots.values()].filter(({ diskId }) => ids.includes(diskId)),
  };
}

/** Takes in what an operation brings. Throws DriverError `not_expected`. */
export async function takeInDisks(
  state: SimState,
  shared: SharedContent,
  operationId: string,
  { disks, snapshots }: SentDisks,
): Promise<void> {
  for (const { ref, image, lineage } of disks) {
    const known = state.disks.get(ref.id);
    if (known?.incoming !== operationId) {
      throw new DriverError('not_expected', 'The disk is not awaited here.', { permanent: true });
    }
    const { incoming: _incoming, ...rest } = known;
    const taken = { ...rest, image, lineage };
    await shared.keep(taken);
    state.disks.set(ref.id, taken);
  }
  for (const snapshot of snapshots) {
    await shared.keepSnapshot(state.disks.get(snapshot.diskId)!, snapshot);
    state.snapshots.set(snapshot.ref.id, snapshot);
  }
}

export class SimLoneDisks {
  private readonly running = new Map<string, { operationId: string; controller: AbortController }>();

  constructor(
    private readonly state: SimState,
    private readonly faults: SimFaults,
    private readonly wire: MigrationWire,
    private readonly shared: SharedContent,
  ) {}

  expect(id: string, { operationId, from }: Incoming): void {
    this.wire.expect(operationId, from, (asked) => this.serve(id, operationId, asked));
  }

  /** What an earlier wish has let in comes no more. */
  forget(disk: SimDisk | undefined): void {
    const { incoming } = disk?.spec ?? {};
    if (incoming?.alone) this.wire.forget(incoming.operationId);
  }

  interrupt(id: string, { operationId }: AbandonArguments): void {
    const running = this.running.get(id);
    if (running?.operationId === operationId) running.controller.abort(new Error('the migration is abandoned'));
  }

  async migrate(ref: Ref, { to, operationId }: MigrateArguments, signal: AbortSignal): Promise<MigrationOutcome> {
    const disk = this.state.disks.get(ref.id);
    if (!disk) throw new DriverError('not_found', `There is no disk ${ref.id} on this node.`, { permanent: true });
    const user = this.state.userOf(ref.id);
    if (user) {
      const message = `The disk is attached to instance ${user.spec.name}.`;
      throw new DriverError('in_use', message, { permanent: true });
    }
    const controller = new AbortController();
    this.running.set(ref.id, { operationId, controller });
    const both = AbortSignal.any([signal, controller.signal]);
    try {
      await this.faults.strike('operate', ref, both);
      both.throwIfAborted();
      const { stream } = await this.wire.open(to, operationId, 'disk', { ...sentDisks(this.state, [ref.id]) }, both);
      stream.end();
    } catch (error) {
      signal.throwIfAborted();
      const message = error instanceof Error ? error.message : String(error);
      throw new DriverError('migration_failed', message, { permanent: true, cause: error });
    } finally {
      this.running.delete(ref.id);
    }
    return { moved: true };
  }

  private async serve(id: string, operationId: string, { channel, question, accept }: Asked): Promise<void> {
    const known = this.state.disks.get(id);
    if (channel !== 'disk' || known?.spec.incoming?.operationId !== operationId) {
      throw new DriverError('not_expected', 'The disk is not awaited here.', { permanent: true });
    }
    // Sent again by an agent that had not heard that it came.
    if (known.incoming) await takeInDisks(this.state, this.shared, operationId, question as unknown as SentDisks);
    await this.state.save();
    (await accept({ stored: true })).end();
  }
}
