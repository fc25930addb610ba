/**
 * A job whose lease this process holds: its transactions, in each of which the lease is made sure of first, and its looks at
 * what it waits for. Knows nothing of steps.
 */
import { Waiting } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { CancelRequested, Parked } from './outside.js';
import { park } from './queue.js';
import { holdLease, type JobRow } from './rows.js';

export class HeldJob {
  constructor(
    private readonly db: Database,
    /** As it was claimed. */
    readonly row: JobRow,
  ) {}

  /** A transaction of the job's tenant in which the lease holds. Throws LeaseLost. */
  write<T>(work: (tx: Tx, current: JobRow) => Promise<T>): Promise<T> {
    return this.db.tenantTransaction(this.row.tenant_id, async (tx) => work(tx, await holdLease(tx, this.row)));
  }

  /** The same, in which nobody has cancelled either. Throws CancelRequested, too. */
  forward<T>(work: (tx: Tx, current: JobRow) => Promise<T>): Promise<T> {
    return this.write(async (tx, current) => {
      if (current.phase === 'undo') throw new CancelRequested();
      return work(tx, current);
    });
  }

  /** Gives what `probe` gives. Where that is Waiting, the transaction that looked gives the job back, and Parked is thrown. */
  async look<Answer>(
    phase: 'do' | 'undo',
    retryMs: number,
    probe: (tx: Tx) => Promise<Answer | Waiting>,
  ): Promise<Answer> {
    const once = (isLast: boolean) =>
      this[phase === 'do' ? 'forward' : 'write'](async (tx, current) => {
        const answer = await probe(tx);
        if (!(answer instanceof Waiting)) return answer;
        await this.waitFor(tx, answer);
        if (isLast || !this.isForeign(answer)) await park(tx, this.row, current, { waitingFor: answer, retryMs });
        return answer;
      });
    let answer = await once(false);
    // News of another resource that came before it was written down whose are waited for woke nobody: once more.
    if (answer instanceof Waiting && this.isForeign(answer)) answer = await once(true);
    if (answer instanceof Waiting) throw new Parked(answer, retryMs, true);
    return answer;
  }

  private isForeign({ on }: Waiting): boolean {
    return on !== undefined && on !== this.row.resource_id;
  }

  /** Writes down whose news wakes the job, beside those of its own resource. */
  private async waitFor(tx: Tx, waiting: Waiting): Promise<void> {
    if (!this.isForeign(waiting)) return;
    await tx
      .updateTable('job')
      .set({ waits_for: waiting.on! })
      .where('tenant_id', '=', this.row.tenant_id)
      .where('id', '=', this.row.id)
      .where((eb) => eb('waits_for', 'is distinct from', waiting.on!))
      .execute();
  }
}
