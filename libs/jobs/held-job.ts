/**
 * A job whose lease this process holds: its transactions, in each of which the lease is made sure of first, and its looks at
 * what it waits for. Knows nothing of steps.
 */
import type { UpdateObject } from 'kysely';
import { Waiting } from '#libs/core';
import { committingWith, type Database, type DB, type Tx } from '#libs/db';
import { CancelRequested, Parked } from './outside.js';
import { park, writeJob } from './queue.js';
import { holdLease, type JobRow } from './rows.js';

export interface Noted {
  writes?: Promise<unknown>;
  changes?: UpdateObject<DB, 'job'>;
}

export class HeldJob {
  constructor(
    private readonly db: Database,
    /** As it was claimed. */
    readonly row: JobRow,
    /** Belongs to the first transaction that is written. */
    private begin?: (tx: Tx) => Promise<void>,
  ) {}

  /** A transaction of the job's tenant in which the lease holds. Throws LeaseLost. */
  async write<T>(work: (tx: Tx, current: JobRow) => Promise<T>): Promise<T> {
    const result = await this.db.tenantTransaction(this.row.tenant_id, async (tx) => {
      const current = await holdLease(tx, this.row);
      await this.begin?.(tx);
      return work(tx, current);
    });
    this.begin = undefined;
    return result;
  }

  /** The same, in which nobody has cancelled either. Throws CancelRequested, too. */
  forward<T>(work: (tx: Tx, current: JobRow) => Promise<T>): Promise<T> {
    return this.write(async (tx, current) => {
      if (current.phase === 'undo') throw new CancelRequested();
      return work(tx, current);
    });
  }

  /**
   * Gives what `probe` gives. Where that is Waiting, the transaction that looked gives the job back, and Parked is thrown;
   * `note` then gives what else is to be written: statements, sent when it is called, and columns of the job's row.
   */
  async look<Answer>(
    phase: 'do' | 'undo',
    retryMs: number,
    probe: (tx: Tx) => Promise<Answer | Waiting>,
    note: (tx: Tx, waiting: Waiting) => Noted = () => ({}),
  ): Promise<Answer> {
    let isOver = true;
    const once = (isLast: boolean) =>
      this[phase === 'do' ? 'forward' : 'write'](async (tx, current) => {
        const answer = await probe(tx);
        if (!(answer instanceof Waiting)) return answer;
        const isAwaited = this.isAwaited(answer, undefined, current);
        isOver = isLast || isAwaited;
        await committingWith(tx, () => {
          const { writes, changes } = note(tx, answer);
          const all = { ...changes, ...(!isAwaited && { waits_for: answer.on! }) };
          const job = isOver
            ? park(tx, this.row, current, { waitingFor: answer, retryMs, changes: all })
            : writeJob(tx, this.row, all);
          return Promise.all([writes, job]);
        });
        return answer;
      });
    let answer = await once(false);
    // News that came before it was written down whose are waited for woke nobody: once more.
    if (answer instanceof Waiting && !isOver) answer = await once(true);
    if (answer instanceof Waiting) throw new Parked(answer, retryMs, true);
    return answer;
  }

  /** Its news wake the job: its own, or of whom it is written down, in this very transaction (`waitsFor`) or before. */
  isAwaited({ on }: Waiting, waitsFor: string | undefined, current: JobRow): boolean {
    return on === undefined || on === this.row.resource_id || on === (waitsFor ?? current.waits_for);
  }
}
