/**
 * The workers of one process: claims due jobs of all tenants, runs them, renews their leases, and settles them. A
 * worker that dies leaves its lease to run out; whoever claims the job next has a higher fence.
 */

import { newId, RhyzomeError } from '#libs/core';
import { type Database, isDatabaseAway, type Listener, type Tx } from '#libs/db';
import { backoffMs, failureOf, isElsewhere, type JobFailure, MAX_OUTAGE_TRIES, unknownFailure } from './failure.js';
import { CancelRequested, OutsideWork, Parked, Stopping } from './outside.js';
import { type ClaimedRow, claimDue, giveBack, renewLeases, writeJob } from './queue.js';
import { holdLease, type JobOutcome, type JobRow, LeaseLost, wakeWorkers } from './rows.js';
import { JobRun } from './run.js';

/** What jobs are about; libs/resources implements it. */
export interface JobHandler {
  /** The kind's create, update, remove or action, made of job.step and job.wait. Also replayed backwards. */
  run(row: JobRow, job: JobRun): Promise<void>;
  /** In the transaction of the first claim: the resource's state follows. */
  begin(tx: Tx, row: JobRow): Promise<void>;
  /** In the transaction that gives the job back because another system is away: the resource says what it waits for. */
  held?(tx: Tx, row: JobRow, reason: { code: string; message: string }): Promise<void>;
  /** In the transaction that ends the job: what was claimed is settled. */
  settle(tx: Tx, row: JobRow, outcome: JobOutcome, failure: JobFailure | null): Promise<void>;
}

export interface RunnerLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface RunnerOptions {
  workers?: number;
  leaseMs?: number;
  /** Tries of one step before the job fails for an error that is nobody's fault that can be named. */
  maxFailures?: number;
  log: RunnerLog;
}

const IDLE_POLL_MS = 2_000;

export class JobRunner {
  /** Names this process in job.lease_owner. */
  readonly owner = newId();
  private readonly held = new Map<string, JobRow>();
  private readonly workers: number;
  private readonly leaseMs: number;
  private readonly maxFailures: number;
  private readonly log: RunnerLog;
  private readonly outside: OutsideWork;
  private deafen: () => void = () => undefined;
  private timer: NodeJS.Timeout | undefined;
  private renewals: ReturnType<Database['renewals']> | undefined;
  private claiming = false;
  private claimAgain = false;
  private stopping = false;

  constructor(
    private readonly db: Database,
    private readonly listener: Listener,
    private readonly handler: JobHandler,
    options: RunnerOptions,
  ) {
    this.workers = options.workers ?? 8;
    this.leaseMs = options.leaseMs ?? 8_000;
    this.maxFailures = options.maxFailures ?? 8;
    this.log = options.log;
    const outside = Math.max(1, Math.floor(this.workers / 2));
    this.outside = new OutsideWork(db, outside, Math.max(1, Math.floor(outside / 2)));
  }

  /** Claims jobs from now on; nothing before. */
  start(): void {
    this.deafen = this.listener.on('rhyzome_job', () => void this.claim());
    this.timer = setInterval(() => void this.claim(), IDLE_POLL_MS);
    this.renewals = this.db.renewals(renewLeases, this.leaseMs / 3);
    void this.claim();
  }

  get running(): number {
    return this.held.size;
  }

  /**
   * Claims no more. What runs is given back at its next step, at once for others; what takes longer than `timeoutMs` for
   * that runs on elsewhere after its lease.
   */
  async stop(timeoutMs = 5_000): Promise<void> {
    this.stopping = true;
    this.outside.stop();
    this.deafen();
    clearInterval(this.timer);
    const end = Date.now() + timeoutMs;
    while ((this.claiming || this.held.size > 0) && Date.now() < end)
      await new Promise((resolve) => setTimeout(resolve, 20));
    await this.renewals?.close();
  }

  private async claim(): Promise<void> {
    if (this.stopping) return;
    if (this.claiming) {
      this.claimAgain = true;
      return;
    }
    this.claiming = true;
    try {
      do {
        this.claimAgain = false;
        const free = this.workers - this.held.size;
        if (free <= 0) break;
        const rows = await claimDue(this.db, this.owner, this.leaseMs, free);
        for (const row of rows) {
          this.held.set(row.id, row);
          void this.work(row);
        }
        this.keepLeases();
      } while (this.claimAgain && !this.stopping);
    } catch (error) {
      if (!isDatabaseAway(error)) this.log.error({ err: error }, 'claiming jobs failed');
    } finally {
      this.claiming = false;
    }
  }

  private keepLeases(): void {
    this.renewals?.keep(this.held.size === 0 ? null : [this.leaseMs, this.owner, [...this.held.keys()]]);
  }

  private async work(row: ClaimedRow): Promise<void> {
    const fields = {
      job: row.id,
      tenant: row.tenant_id,
      kind: row.kind,
      action: row.action,
      requestId: row.request_id,
    };
    try {
      await this.runOnce(row);
    } catch (error) {
      if (error instanceof LeaseLost) this.log.info(fields, 'the job is no longer ours');
      else if (isDatabaseAway(error) || (error as RhyzomeError).code === 'database_unavailable') {
        this.log.warn(fields, 'the database went away; the job goes on after its lease');
      } else this.log.error({ ...fields, err: error }, 'the job could not be recorded; it goes on after its lease');
    } finally {
      this.held.delete(row.id);
      this.keepLeases();
      void this.claim();
    }
  }

  private async runOnce(row: ClaimedRow): Promise<void> {
    if (row.first_claim && row.phase === 'do') {
      await this.fenced(row, 'no key update', (tx) => this.handler.begin(tx, row));
    }
    try {
      if (row.supersedes && row.phase === 'do') await this.unwindSuperseded(row);
      if (row.phase === 'do') {
        const run = new JobRun(this.db, row, row, 'do', this.outside);
        await run.open();
        await this.handler.run(row, run);
        await this.end(row, 'succeeded', null);
      } else {
        await this.unwind(row, row);
        await this.end(row, row.outcome as JobOutcome, row.error as JobFailure | null);
      }
    } catch (error) {
      await this.afterError(row, error);
    }
  }

  private async unwindSuperseded(row: JobRow): Promise<void> {
    const [old] = await this.db.tenantRead(
      row.tenant_id,
      this.db.builder
        .selectFrom('job')
        .selectAll()
        .where('tenant_id', '=', row.tenant_id)
        .where('id', '=', row.supersedes!)
        .compile(),
    );
    if (!old) return;
    await this.unwind(row, old);
    await this.fenced(row, 'no key update', (tx) => endWaits(tx, old));
  }

  private async unwind(lease: JobRow, row: JobRow): Promise<void> {
    const run = new JobRun(this.db, lease, row, 'undo', this.outside);
    await run.open();
    await run.unwind(() => this.handler.run(row, run));
  }

  private async afterError(row: JobRow, error: unknown): Promise<void> {
    if (error instanceof Parked) return this.park(row, error);
    if (error instanceof LeaseLost || isDatabaseAway(error)) throw error;
    if (error instanceof CancelRequested || error instanceof Stopping) return this.release(row, 0);
    if (isElsewhere(error) && row.failures < MAX_OUTAGE_TRIES) return this.waitForElsewhere(row, error);
    const known = error instanceof RhyzomeError && error.code !== 'overloaded' && error.code !== 'database_unavailable';
    if (error instanceof RhyzomeError && error.code === 'database_unavailable') throw error;
    const failures = row.failures + 1;
    if (!known && failures < this.maxFailures) {
      this.log.warn({ job: row.id, err: error, failures }, 'a step went wrong; it is tried again');
      return this.release(row, backoffMs(failures), failures);
    }
    if (row.phase === 'undo') return this.undoStuck(row, error, failures);
    const failure = known ? failureOf(error as RhyzomeError) : unknownFailure(row);
    if (!known) this.log.error({ job: row.id, err: error }, 'the job failed');
    await this.fenced(row, 'no key update', (tx) =>
      giveBack(tx, row, 0, {
        phase: 'undo',
        outcome: 'failed',
        error: JSON.stringify(failure),
        cancellable: false,
        failures: 0,
      }),
    );
  }

  /** Nothing is wrong with the job: it is tried on until the other system is back, and its user sees what it waits for. */
  private async waitForElsewhere(row: JobRow, { code, message }: RhyzomeError): Promise<void> {
    const failures = row.failures + 1;
    if (row.message !== message)
      await this.fenced(row, 'no key update', async (tx) => this.handler.held?.(tx, row, { code, message }));
    await this.release(row, backoffMs(failures), failures, message, 'waiting');
  }

  /** An undo that does not succeed is an alarm, and is tried on: what it leaves behind would be nobody's. */
  private async undoStuck(row: JobRow, error: unknown, failures: number): Promise<void> {
    this.log.error({ alarm: 'undo_stuck', job: row.id, tenant: row.tenant_id, err: error }, 'an undo does not succeed');
    await this.release(row, 60_000, failures, 'Undoing does not succeed; it is tried on, and the operators are told.');
  }

  private async park(row: JobRow, parked: Parked): Promise<void> {
    await this.fenced(row, 'no key update', async (tx, current) => {
      const state = current.state === 'cancelling' ? 'cancelling' : parked.waitingFor.outside ? 'waiting' : 'running';
      const woken = current.wakes > row.wakes || current.phase !== row.phase;
      await giveBack(tx, row, woken ? 0 : parked.retryMs, { state, message: parked.message, failures: 0 });
    });
  }

  private async release(
    row: JobRow,
    delayMs: number,
    failures = row.failures,
    message?: string,
    state?: 'waiting',
  ): Promise<void> {
    await this.fenced(row, 'no key update', (tx, current) => {
      if (delayMs === 0) wakeWorkers();
      return giveBack(tx, row, delayMs, {
        failures,
        ...(message && { message }),
        ...(state && current.state !== 'cancelling' && { state }),
      });
    });
    // What is due before the next look at the queue is looked for when it is due.
    if (delayMs < IDLE_POLL_MS) setTimeout(() => void this.claim(), delayMs + 1).unref();
  }

  private async end(row: JobRow, outcome: JobOutcome, failure: JobFailure | null): Promise<void> {
    await this.fenced(row, 'update', async (tx, current) => {
      if (outcome === 'succeeded' && current.phase === 'undo') throw new CancelRequested();
      await this.handler.settle(tx, current, outcome, failure);
      if (outcome !== 'succeeded') await endWaits(tx, row);
      await writeJob(tx, row, {
        state: outcome,
        error: failure ? JSON.stringify(failure) : null,
        cancellable: false,
        finished_at: new Date(),
        lease_owner: null,
        lease_until: null,
        message: null,
        ...(outcome === 'succeeded' && { progress: 100 }),
      });
    });
  }

  private fenced<T>(
    row: JobRow,
    strength: 'update' | 'no key update',
    work: (tx: Tx, current: JobRow) => Promise<T>,
  ): Promise<T> {
    return this.db.tenantTransaction(row.tenant_id, async (tx) => work(tx, await holdLease(tx, row, strength)));
  }
}

/** Nothing waits any more in a job that was undone. */
async function endWaits(tx: Tx, row: JobRow): Promise<void> {
  await tx
    .updateTable('job_step')
    .set({ state: 'undone', finished_at: new Date() })
    .where('tenant_id', '=', row.tenant_id)
    .where('job_id', '=', row.id)
    .where('state', '=', 'waiting')
    .execute();
}
