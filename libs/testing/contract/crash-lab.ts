/**
 * Workers that die at a chosen transaction, and others that take over. A worker that has died writes nothing any more, as
 * after `kill -9`: either the transaction was committed and it never learned so, or it was not.
 */
import { sql } from 'kysely';
import { expect } from 'vitest';
import type { JobStep } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { type JobHandler, type JobRow, type JobRun, JobRunner } from '#libs/jobs';
import { type Caller, type ChangeResult, type JobView, ResourceJobs } from '#libs/resources';
import type { Platform } from '../platform.js';

export interface Crash {
  /** Which of the worker's transactions, from 1. */
  at: number;
  when: 'before commit' | 'after commit';
}

class Crashed extends Error {
  override readonly name = 'Crashed';
}

/** One worker's use of the database, which ends where the worker dies. */
class Life {
  private transactions = 0;
  isOver = false;

  constructor(
    private readonly crash: Crash | undefined,
    private readonly onDeath: () => void,
  ) {}

  /** The database as the worker sees it. */
  of(db: Database): Database {
    const tenantTransaction = <T>(tenantId: string, work: (tx: Tx) => Promise<T>) =>
      this.transaction(db, tenantId, work);
    return new Proxy(db, {
      get: (target, key) => {
        if (key === 'tenantTransaction') return tenantTransaction;
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
  }

  private async transaction<T>(db: Database, tenantId: string, work: (tx: Tx) => Promise<T>): Promise<T> {
    if (this.isOver) throw new Crashed('dead already');
    const isLast = ++this.transactions === this.crash?.at;
    const result = await db.tenantTransaction(tenantId, async (tx) => {
      const done = await work(tx);
      if (isLast && this.crash?.when === 'before commit') this.end();
      return done;
    });
    if (isLast) this.end();
    return result;
  }

  private end(): never {
    this.isOver = true;
    this.onDeath();
    throw new Crashed('died here');
  }
}

/** Runs each step's act, undo and probe of its undoing twice: once more than was recorded. */
class Repeating implements JobHandler {
  constructor(private readonly handler: JobHandler) {}
  begin = (tx: Tx, row: JobRow) => this.handler.begin(tx, row);
  settle: JobHandler['settle'] = (tx, row, outcome, failure) => this.handler.settle(tx, row, outcome, failure);

  run(row: JobRow, job: JobRun): Promise<void> {
    const repeating: Pick<JobRun, 'id' | 'action' | 'request' | 'plan' | 'step' | 'wait' | 'ask'> = {
      id: job.id,
      action: job.action,
      request: job.request,
      plan: (total) => job.plan(total),
      wait: (name, probe, options) => job.wait(name, twice(probe), options),
      step: (name, step) => job.step(name, { ...step, ...doingTwice(step) }),
      ask: (name, asking) =>
        job.ask(name, {
          ...asking,
          ...doingTwice(asking),
          until: { ...asking.until, probe: twice(asking.until.probe) },
        }),
    };
    return this.handler.run(row, repeating as JobRun);
  }
}

function twice<Args extends unknown[], Result>(work: (...args: Args) => Promise<Result>) {
  return async (...args: Args): Promise<Result> => {
    await work(...args);
    return work(...args);
  };
}

function doingTwice<Result, Prepared>({ act, undo, undone }: JobStep<Tx, Result, Prepared>) {
  return { act: twice(act), ...(undo && { undo: twice(undo) }), ...(undone && { undone: twice(undone) }) };
}

const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };

/** Jobs of one platform that has no workers of its own. */
export class CrashLab {
  constructor(private readonly platform: Platform) {}

  /** Lets a worker run until the job has ended or the worker has died; true if it died. */
  async run(caller: Caller, jobId: string, crash?: Crash, repeating = false): Promise<boolean> {
    const { registry, listener, jobs } = this.platform;
    const over = new AbortController();
    const life = new Life(crash, () => {
      void runner.stop(0);
      over.abort();
    });
    const db = life.of(this.platform.db);
    const handler = new ResourceJobs(db, registry);
    const runner = new JobRunner(db, listener, repeating ? new Repeating(handler) : handler, {
      workers: 2,
      leaseMs: 60_000,
      log: silent,
    });
    runner.start();
    const ended = await jobs.wait(caller, jobId, 15_000, over.signal);
    await runner.stop();
    if (!life.isOver && !ended) throw new Error(`not ended: ${JSON.stringify(await jobs.get(caller, jobId))}`);
    return life.isOver;
  }

  /** What time does: the dead worker's leases run out. */
  async expireLeases(caller: Caller): Promise<void> {
    await sql`update job set lease_until = now() - interval '1 second'
      where tenant_id = ${caller.actor.tenantId} and finished_at is null and lease_until is not null`.execute(
      this.platform.db.operator,
    );
  }

  /** Another worker goes on where the dead one was; returns the job as it ended. */
  async takeOver(caller: Caller, jobId: string): Promise<JobView> {
    await this.expireLeases(caller);
    expect(await this.run(caller, jobId)).toBe(false);
    return this.platform.jobs.get(caller, jobId);
  }

  /** The whole job by one worker, or by two if the first dies. */
  async finish(caller: Caller, change: ChangeResult, crash?: Crash): Promise<{ job: JobView; died: boolean }> {
    const died = await this.run(caller, change.jobId!, crash);
    if (died) return { job: await this.takeOver(caller, change.jobId!), died };
    return { job: await this.platform.jobs.get(caller, change.jobId!), died };
  }
}
