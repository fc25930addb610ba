/** Jobs without kinds: each test tells the work, and workers of any number run it on a database of their own. */
import { sql } from 'kysely';
import { newId } from '#libs/core';
import type { Database, DatabaseOptions, Listener, Tx } from '#libs/db';
import {
  type JobHandler,
  type JobOutcome,
  type JobRow,
  type JobRun,
  JobRunner,
  jobValues,
  wakeWorkers,
} from '#libs/jobs';
import { type TestDatabase, testDatabase } from './database.js';

export const JOB_TENANT = 'acme';
const WAIT_MS = 25_000;

/** The work of a job, and the name of the worker that does it. */
export type Work = (job: JobRun, worker: string) => Promise<unknown>;

export class JobLab {
  readonly settled: { job: string; outcome: JobOutcome; code: string | undefined }[] = [];
  readonly logs: string[] = [];
  private readonly runners: JobRunner[] = [];
  /** By action. */
  private readonly works = new Map<string, Work>();

  constructor(private readonly database: TestDatabase) {}

  get db(): Database {
    return this.database.db;
  }

  get listener(): Listener {
    return this.database.listener;
  }

  startRunner(name = 'one', options: { workers?: number; leaseMs?: number; maxFailures?: number } = {}): JobRunner {
    const handler: JobHandler = {
      run: async (row, job) => {
        await this.works.get(row.action)!(job, name);
      },
      begin: async () => undefined,
      settle: async (_, row, outcome, failure) => {
        this.settled.push({ job: row.id, outcome, code: failure?.code });
      },
    };
    const note = (_: object, message: string) => void this.logs.push(message);
    const log = { info: note, warn: note, error: note };
    const runner = new JobRunner(this.db, this.database.listener, handler, { log, ...options });
    this.runners.push(runner);
    runner.start();
    return runner;
  }

  async stopRunners(): Promise<void> {
    await Promise.all(this.runners.splice(0).map((runner) => runner.stop(500)));
  }

  async enqueue(work: Work, more: { supersedes?: string; resourceId?: string } = {}): Promise<string> {
    const id = newId();
    const action = `act-${id}`;
    this.works.set(action, work);
    await this.inTenant((tx) => {
      const values = jobValues({
        tenantId: JOB_TENANT,
        id,
        resourceId: more.resourceId ?? newId(),
        kind: 'thing',
        resourceName: 'thing',
        resourceTags: {},
        action,
        request: {},
        createdBy: 'test',
        supersedes: more.supersedes,
      });
      wakeWorkers();
      return tx.insertInto('job').values(values).execute();
    });
    return id;
  }

  inTenant<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.db.tenantTransaction(JOB_TENANT, work);
  }

  async jobOf(id: string): Promise<JobRow> {
    return this.db.operator.selectFrom('job').selectAll().where('id', '=', id).executeTakeFirstOrThrow();
  }

  /** `name: state` of each step. */
  async stepsOf(id: string): Promise<string[]> {
    const steps = await this.db.operator
      .selectFrom('job_step')
      .select(['name', 'state'])
      .where('job_id', '=', id)
      .orderBy('ordinal')
      .execute();
    return steps.map(({ name, state }) => `${name}: ${state}`);
  }

  /** Waits for a job's state, at most 25 s. */
  async until(id: string, state: string): Promise<void> {
    const end = Date.now() + WAIT_MS;
    for (;;) {
      const job = await this.jobOf(id);
      if (job.state === state) return;
      if (Date.now() > end) throw new Error(`the job is ${job.state} and not ${state}: ${JSON.stringify(job)}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** What time does: all leases have run out. */
  async expire(): Promise<void> {
    await sql`update job set lease_until = now() - interval '1 second', run_at = now()
      where finished_at is null and lease_until is not null`.execute(this.db.operator);
  }

  async close(): Promise<void> {
    await this.stopRunners();
    await this.database.close();
  }
}

export async function openJobLab(onQuery?: DatabaseOptions['onQuery']): Promise<JobLab> {
  const database = await testDatabase({ onQuery });
  await sql`insert into tenant (id, display_name) values (${JOB_TENANT}, 'Acme')`.execute(database.db.operator);
  await database.listener.start();
  return new JobLab(database);
}

/** Somewhere to be held until it opens. */
export function gate() {
  let open: () => void = () => undefined;
  let arrive: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const arrived = new Promise<void>((resolve) => {
    arrive = resolve;
  });
  return {
    open,
    arrived,
    pass: () => {
      arrive();
      return opened;
    },
  };
}
