/**
 * The workers of one process: claims due jobs of all tenants, runs them, renews their leases, and settles them. A
 * worker that dies leaves its lease to run out; whoever claims the job next has a higher fence.
 */

import { newId, type RhyzomeError } from '#libs/core';
import { type Database, isDatabaseAway, type Listener, type Tx } from '#libs/db';
import { JobEndings } from './endings.js';
import { type JobFailure, tooManyCrashes } from './failure.js';
import type { JobHandler, RunnerLog } from './handler.js';
import { MAX_CRASHES, STEP_TRIES } from './limits.js';
import { OutsideWork } from './outside.js';
import { type ClaimedRow, claimDue, renewLeases } from './queue.js';
import { holdLease, type JobOutcome, type JobRow, LeaseLost } from './rows.js';
import { JobRun } from './run.js';
import { endWaits } from './step-rows.js';

export interface RunnerOptions {
  workers?: number;
  leaseMs?: number;
  /** Tries of one step before the job fails for an error that is nobody's fault that can be named. */
  maxFailures?: number;
  log: RunnerLog;
}

/** With the lease, what a dead worker's jobs wait for at most: under 10 s. */
const IDLE_POLL_MS = 1_000;

export class JobRunner {
  /** Names this process in job.lease_owner. */
  readonly owner = newId();
  private readonly held = new Map<string, JobRow>();
  private readonly workers: number;
  private readonly leaseMs: number;
  private readonly endings: JobEndings;
  private readonly log: RunnerLog;
  private readonly outside: OutsideWork;
  private deafen: () => void = () => undefined;
  private timer: NodeJS.Timeout | undefined;
  private renewals: ReturnType<Database['renewals']> | undefined;
  private claiming = false;
  private claimAgain = false;
  /** The last look at the queue may have left something there that was due. */
  private isMoreDue = true;
  private stopping = false;

  constructor(
    private readonly db: Database,
    private readonly listener: Listener,
    private readonly handler: JobHandler,
    options: RunnerOptions,
  ) {
    this.workers = options.workers ?? 8;
    this.leaseMs = options.leaseMs ?? 8_000;
    this.log = options.log;
    this.endings = new JobEndings(db, handler, {
      tries: options.maxFailures ?? STEP_TRIES,
      log: options.log,
      // What is due before the next look at the queue is looked for when it is due.
      dueIn: (delayMs) => {
        if (delayMs < IDLE_POLL_MS) setTimeout(() => void this.claim(), delayMs + 1).unref();
      },
    });
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
        this.isMoreDue = free <= 0;
        if (free <= 0) break;
        const rows = await claimDue(this.db, this.owner, this.leaseMs, free);
        this.isMoreDue = rows.length === free;
        for (const row of rows) this.held.set(row.id, row);
        // Before the work, which may compute without a turn.
        this.keepLeases();
        for (const row of rows) void this.work(row);
      } while (this.claimAgain && !this.stopping);
    } catch (error) {
      this.isMoreDue = true;
      const isAway = isDatabaseAway(error) || (error as RhyzomeError).code === 'database_unavailable';
      if (!isAway) this.log.error({ err: error }, 'claiming jobs failed');
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
      // One that has been given back may be held anew already.
      if (this.held.get(row.id) === row) this.held.delete(row.id);
      this.keepLeases();
      if (this.isMoreDue) void this.claim();
    }
  }

  private async runOnce(row: ClaimedRow): Promise<void> {
    if (row.crashes > 0) await this.endings.noteCrashes(row);
    const at: { run?: JobRun } = {};
    try {
      if (row.phase === 'do' && row.crashes >= MAX_CRASHES) throw tooManyCrashes(row);
      if (row.supersedes && row.phase === 'do') await this.unwindSuperseded(row);
      if (row.phase === 'do') {
        // One that failed or was lost in its first run may not have begun.
        const mayBegin = row.first_claim || row.failures > 0 || row.crashes > 0;
        const begin = mayBegin ? (tx: Tx) => this.handler.begin(tx, row) : undefined;
        at.run = new JobRun(this.db, row, row, 'do', this.outside, begin);
        if (!row.first_claim) await at.run.open();
        await this.handler.run(row, at.run);
        await this.endings.end(row, 'succeeded', null);
      } else {
        await this.unwind(row, row);
        await this.endings.end(row, row.outcome as JobOutcome, row.error as JobFailure | null);
      }
    } catch (error) {
      await this.endings.afterError(row, error, at.run?.tries);
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
    await this.db.tenantTransaction(row.tenant_id, async (tx) => {
      await holdLease(tx, row);
      await endWaits(tx, old);
    });
  }

  private async unwind(lease: JobRow, row: JobRow): Promise<void> {
    const run = new JobRun(this.db, lease, row, 'undo', this.outside);
    await run.open();
    await run.unwind(() => this.handler.run(row, run));
  }
}
