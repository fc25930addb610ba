/** The rows of a job's steps: what has begun, what it gave, and when it has to be done by. By the database's clock. */
import { sql } from 'kysely';
import type { Database, Tx } from '#libs/db';
import { later } from './queue.js';
import type { JobRow, JobStepRow } from './rows.js';

/** A step as it was read at the begin of a run. */
export type RecordedStep = JobStepRow & { is_late: boolean };

/** `begin`: so long from now; `keep`: as it is, if it runs; null: it takes its time. */
export type DeadlineChange = { begin: number } | { keep: number } | null;

export interface StepRecord {
  ordinal: number;
  name: string;
  state: 'running' | 'waiting' | 'succeeded';
  started: Date;
  result?: unknown;
  message?: string;
  deadline?: DeadlineChange;
}

/** All that are recorded of a job, in their order. */
export async function readSteps(db: Database, job: JobRow): Promise<RecordedStep[]> {
  return db.tenantRead(
    job.tenant_id,
    db.builder
      .selectFrom('job_step')
      .selectAll()
      .select(sql<boolean>`coalesce(deadline_at < clock_timestamp(), false)`.as('is_late'))
      .where('tenant_id', '=', job.tenant_id)
      .where('job_id', '=', job.id)
      .orderBy('ordinal')
      .compile(),
  );
}

export async function recordStep(tx: Tx, job: JobRow, step: StepRecord): Promise<RecordedStep> {
  const result = step.result === undefined ? null : JSON.stringify(step.result);
  const finished_at = step.state === 'succeeded' ? new Date() : null;
  const { state, message = null, deadline = null } = step;
  const deadline_at = deadline && later('begin' in deadline ? deadline.begin : deadline.keep);
  const kept = deadline && 'keep' in deadline ? sql<Date>`coalesce(job_step.deadline_at, ${deadline_at})` : deadline_at;
  const row = await tx
    .insertInto('job_step')
    .values({
      tenant_id: job.tenant_id,
      job_id: job.id,
      ordinal: step.ordinal,
      name: step.name,
      state,
      message,
      result,
      started_at: step.started,
      finished_at,
      deadline_at,
    })
    .onConflict((oc) =>
      oc
        .columns(['tenant_id', 'job_id', 'ordinal'])
        .doUpdateSet({ state, message, result, finished_at, deadline_at: kept }),
    )
    .returningAll()
    .executeTakeFirstOrThrow();
  return { ...row, is_late: false };
}

export async function setStepState(tx: Tx, step: JobStepRow, state: string): Promise<void> {
  await tx
    .updateTable('job_step')
    .set({ state, ...(state === 'undone' && { finished_at: new Date() }) })
    .where('tenant_id', '=', step.tenant_id)
    .where('job_id', '=', step.job_id)
    .where('ordinal', '=', step.ordinal)
    .execute();
  step.state = state;
}

/** Nothing waits any more in a job that was undone. */
export async function endWaits(tx: Tx, job: JobRow): Promise<void> {
  await tx
    .updateTable('job_step')
    .set({ state: 'undone', finished_at: new Date() })
    .where('tenant_id', '=', job.tenant_id)
    .where('job_id', '=', job.id)
    .where('state', '=', 'waiting')
    .execute();
}

/** What has begun outside and waits for another system takes its time until that is back. */
export async function pauseDeadline(tx: Tx, job: JobRow): Promise<void> {
  await tx
    .updateTable('job_step')
    .set({ deadline_at: null })
    .where('tenant_id', '=', job.tenant_id)
    .where('job_id', '=', job.id)
    .where('state', '=', 'running')
    .where('deadline_at', 'is not', null)
    .execute();
}
