/**
 * Disks that move without a machine, as files. Nobody writes to one meanwhile, so that it is this node's until the other has
 * all of it, and nothing has to be let go of: whose it is from then on, the controller says.
 */
import {
  type AbandonArguments,
  type DriverContext,
  DriverError,
  type Incoming,
  type MigrationOutcome,
  type MigrationProgress,
  type Ref,
} from '#libs/drivers/contract';
import type { Disks } from '../disks.js';
import type { SnapshotRecords } from '../snapshot-records.js';
import { isMigrate } from './arguments.js';
import { takeDisk } from './disk.js';
import { sendDisk } from './send.js';

export interface LoneParts {
  context: DriverContext;
  disks: Disks;
  snapshots: SnapshotRecords;
}

export class LoneDisks {
  private readonly running = new Map<string, { operationId: string; controller: AbortController }>();

  /** The operations that are let in, by disk. */
  private readonly expected = new Map<string, string>();

  constructor(private readonly parts: LoneParts) {}

  /** Lets the sender in. Undo: `forget`. Again: the same. */
  expect(ref: Ref, { operationId, from }: Incoming): void {
    this.expected.set(ref.id, operationId);
    this.parts.context.migration.expect(operationId, from, async (asked) => {
      if (asked.channel !== 'file') {
        throw new DriverError('unknown_channel', `There is no channel ${asked.channel}.`, { permanent: true });
      }
      await takeDisk(this.parts, ref, operationId, asked);
    });
  }

  /** Nothing of an earlier wish comes any more. */
  forget(id: string): void {
    const operationId = this.expected.get(id);
    if (operationId !== undefined) this.parts.context.migration.forget(operationId);
    this.expected.delete(id);
  }

  interrupt(id: string, { operationId }: AbandonArguments): void {
    const running = this.running.get(id);
    if (running?.operationId === operationId) running.controller.abort(new Error('the migration is abandoned'));
  }

  /** Sends it; resolves when all of it is there. It stays here, too, until it is removed. Throws DriverError `in_use` and others. */
  async migrate(
    ref: Ref,
    args: unknown,
    signal: AbortSignal,
    onProgress: (progress: MigrationProgress) => void,
  ): Promise<MigrationOutcome> {
    if (!isMigrate(args) || args.disks.join() !== ref.id) {
      throw new DriverError('invalid_spec', 'The migration’s arguments are wrong.', { permanent: true });
    }
    const { operationId, to } = args;
    const controller = new AbortController();
    this.running.set(ref.id, { operationId, controller });
    const both = AbortSignal.any([signal, controller.signal]);
    const progress = { doneBytes: 0, totalBytes: 0 };
    try {
      await this.parts.disks.changing([ref.id], both, async () => {
        const user = await this.parts.disks.userOf(ref.id);
        if (user) throw new DriverError('in_use', `The disk is attached to instance ${user}.`);
        await sendDisk(this.parts, ref.id, { operationId, to }, both, (done, all) => {
          progress.doneBytes += done;
          progress.totalBytes += all;
          onProgress({ ...progress });
        });
      });
    } catch (error) {
      // Cut short by the agent's end: the next one goes on.
      signal.throwIfAborted();
      if (!(error instanceof DriverError)) throw error;
      throw new DriverError(error.code, error.message, { permanent: true, cause: error });
    } finally {
      this.running.delete(ref.id);
    }
    return { moved: true };
  }
}
