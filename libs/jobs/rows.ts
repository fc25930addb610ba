/** The job as it stands in the database. The row is its own queue entry: due at run_at, leased, fenced. */

import { type Selectable, sql } from 'kysely';
import { RhyzomeError, type Tags } from '#libs/core';
import {
  allInOrder,
  type Database,
  type JobStep as JobStepTable,
  type Job as JobTable,
  type Tx,
  wakeAfterCommit,
} from '#libs/db';

import { ALARM_AFTER_MS } from './limits.js';

export type JobRow = Selectable<JobTable>;
export type JobStepRow = Selectable<JobStepTable>;
export type JobOutcome = 'succeeded' | 'failed' | 'cancelled';

/** From when on it is an alarm that a job has not ended, for one that begins now. */
const alarmTime = sql<Date>`now() + make_interval(secs => ${ALARM_AFTER_MS / 1000}::float8)`;

/** Tells the workers of all processes, once this transaction is committed. */
export function wakeWorkers(): void {
  wakeAfterCommit('rhyzome_job');
}

export interface NewJob {
  tenantId: string;
  id: string;
  resourceId: string;
  kind: string;
  resourceName: string;
  /** As they are when it is asked for: who may read the job is decided on them once the resource is gone. */
  resourceTags: Tags;
  action: string;
  request: Record<string, unknown>;
  supersedes?: string;
  createdBy: string;
  requestId?: string;
}

/** The columns of a new job's row; inserting it is what enqueues it, and `wakeWorkers` tells of it. */
export function jobValues(job: NewJob) {
  return {
    tenant_id: job.tenantId,
    id: job.id,
    resource_id: job.resourceId,
    kind: job.kind,
    resource_name: job.resourceName,
    resource_tags: JSON.stringify(job.resourceTags),
    action: job.action,
    request: JSON.stringify(job.request),
    supersedes: job.supersedes ?? null,
    // Its first step is the other job's undo, and nobody brings back what that undid.
    cancellable: job.supersedes === undefined,
    created_by: job.createdBy,
    request_id: job.requestId ?? null,
  };
}

/** The resource's job that has not ended, locked; undefined when there is none. */
export async function unendedJob(tx: Tx, tenantId: string, resourceId: string): Promise<JobRow | undefined> {
  return tx
    .selectFrom('job')
    .selectAll()
    .where('tenant_id', '=', tenantId)
    .where('resource_id', '=', resourceId)
    .where('finished_at', 'is', null)
    .forUpdate()
    .executeTakeFirst();
}

/** Wakes the resources' unended jobs, whether they are parked or running right now. Locks them in one order. */
export async function wakeJobs(tx: Tx, tenantId: string, resourceIds: readonly string[]): Promise<void> {
  if (resourceIds.length === 0) return;
  if (resourceIds.length > 1) {
    await tx
      .selectFrom('job')
      .select('id')
      .where('tenant_id', '=', tenantId)
      .where('resource_id', 'in', [...resourceIds])
      .where('finished_at', 'is', null)
      .orderBy('id')
      .forUpdate()
      .execute();
  }
  const woken = await tx
    .updateTable('job')
    .set((eb) => ({ wakes: eb('wakes', '+', 1), run_at: eb.fn<Date>('now') }))
    .where('tenant_id', '=', tenantId)
    .where('resource_id', 'in', [...resourceIds])
    .where('finished_at', 'is', null)
    .executeTakeFirst();
  // Most news of nodes are about what no job is about.
  if (woken.numUpdatedRows > 0n) wakeWorkers();
}

/**
 * Wakes the jobs of other resources that wait for news of this one. In transactions of their own, after the news: whoever
 * holds such a job may be waiting for the resource. And none holds one job while it waits for another: whoever ends a job
 * holds it while waking others.
 */
export async function wakeWaiters(db: Database, tenantId: string, resourceId: string): Promise<void> {
  // Asked first: nearly always there are none, and a read costs a third of a transaction that could write.
  const waiting = db.builder
    .selectFrom('job')
    .select('id')
    .where('tenant_id', '=', tenantId)
    .where('waits_for', '=', resourceId)
    .where('finished_at', 'is', null)
    .limit(1);
  if ((await db.tenantRead(tenantId, waiting.compile())).length === 0) return;
  const held = await db.tenantTransaction(tenantId, async (tx) => {
    const result = await sql<{ id: string; isFree: boolean }>`
      with waiting as (
        select id from job where tenant_id = ${tenantId} and waits_for = ${resourceId} and finished_at is null),
      free as (
        select id from job where tenant_id = ${tenantId} and waits_for = ${resourceId} and finished_at is null
        for update skip locked),
      woken as (
        update job set wakes = wakes + 1, run_at = now()
        where tenant_id = ${tenantId} and id in (select id from free) returning id)
      select w.id, k.id is not null as "isFree" from waiting w left join woken k on k.id = w.id`.execute(tx);
    if (result.rows.some(({ isFree }) => isFree)) wakeWorkers();
    return result.rows.filter(({ isFree }) => !isFree);
  });
  for (const { id } of held) {
    await db.tenantTransaction(tenantId, async (tx) => {
      wakeWorkers();
      await sql`update job set wakes = wakes + 1, run_at = now()
        where tenant_id = ${tenantId} and id = ${id} and finished_at is null`.execute(tx);
    });
  }
}

/**
 * Wakes the jobs that are about these resources or wait for them, after news that were written without the resources' locks.
 * Nearly always there are none: one read for all.
 */
export async function wakeLate(db: Database, resources: readonly { tenantId: string; id: string }[]): Promise<void> {
  if (resources.length === 0) return;
  const concerned = await sql<{ tenantId: string; id: string }>`
    select distinct r."tenantId", r.id from jsonb_to_recordset(${JSON.stringify(resources)}::jsonb) as r ("tenantId" text, id uuid)
    where exists (select from job j where j.tenant_id = r."tenantId" and j.resource_id = r.id and j.finished_at is null)
      or exists (select from job j where j.tenant_id = r."tenantId" and j.waits_for = r.id and j.finished_at is null)`.execute(
    db.operator,
  );
  for (const { tenantId, id } of concerned.rows) {
    await db.tenantTransaction(tenantId, (tx) => wakeJobs(tx, tenantId, [id]));
    await wakeWaiters(db, tenantId, id);
  }
}

/** Thrown when the lease was lost: somebody else has the job, or it has ended. Nothing may be written any more. */
export class LeaseLost extends Error {
  override readonly name = 'LeaseLost';
}

/**
 * Locks a resource, by which every transaction begins that changes it, its jobs or what stands on nodes for it: requests,
 * workers and reports take their locks in one order (resource, job, the rest), so that none waits for another in a circle.
 */
export async function lockSubject(
  tx: Tx,
  tenantId: string,
  resourceId: string,
  /** `update` where its removal or a key of it may follow: a lock is never made stronger later. */
  strength: 'update' | 'no key update' = 'no key update',
): Promise<void> {
  await tx
    .selectFrom('resource')
    .select('id')
    .where('tenant_id', '=', tenantId)
    .where('id', '=', resourceId)
    .$if(strength === 'update', (qb) => qb.forUpdate())
    .$if(strength === 'no key update', (qb) => qb.forNoKeyUpdate())
    .execute();
}

/** Locks the job's resource and row if the lease with this fence still holds; throws LeaseLost. */
export async function holdLease(
  tx: Tx,
  row: Pick<JobRow, 'tenant_id' | 'id' | 'fence' | 'resource_id'>,
  strength?: 'update' | 'no key update',
): Promise<JobRow> {
  const [, current] = await allInOrder([
    lockSubject(tx, row.tenant_id, row.resource_id, strength),
    tx
      .selectFrom('job')
      .selectAll()
      .where('tenant_id', '=', row.tenant_id)
      .where('id', '=', row.id)
      .where('fence', '=', row.fence)
      .where('finished_at', 'is', null)
      .forUpdate()
      .executeTakeFirst(),
  ]);
  if (!current) throw new LeaseLost(`job ${row.id} is no longer held`);
  return current;
}

/**
 * Asks a job to be undone. Its worker notices at its next write; a parked one is woken.
 * Throws RhyzomeError `not_found`, `not_cancellable`.
 */
export async function cancelJob(tx: Tx, tenantId: string, id: string): Promise<JobRow> {
  const row = await lockJob(tx, tenantId, id);
  if (row.state === 'cancelling' || row.state === 'cancelled') return row;
  if (row.finished_at) {
    throw new RhyzomeError('not_cancellable', `The job has ended as “${row.state}”; there is nothing to cancel.`);
  }
  if (!row.cancellable || row.phase === 'undo') {
    throw new RhyzomeError(
      'not_cancellable',
      row.phase === 'undo' ? 'The job has failed and is being undone already.' : 'The job is past what can be undone.',
    );
  }
  wakeWorkers();
  return tx
    .updateTable('job')
    .set((eb) => ({
      state: 'cancelling',
      phase: 'undo',
      outcome: 'cancelled',
      cancellable: false,
      failures: 0,
      crashes: 0,
      wakes: eb('wakes', '+', 1),
      run_at: eb.fn<Date>('now'),
      alarm_at: alarmTime,
    }))
    .where('tenant_id', '=', tenantId)
    .where('id', '=', id)
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** Puts a failed job back into the queue: the stored request again. The caller has claimed anew. */
export async function requeueJob(tx: Tx, row: JobRow): Promise<JobRow> {
  wakeWorkers();
  await tx.deleteFrom('job_step').where('tenant_id', '=', row.tenant_id).where('job_id', '=', row.id).execute();
  return tx
    .updateTable('job')
    .set((eb) => ({
      state: 'queued',
      phase: 'do',
      outcome: null,
      error: null,
      progress: 0,
      failures: 0,
      crashes: 0,
      message: null,
      alarm_at: alarmTime,
      cancellable: row.supersedes === null,
      finished_at: null,
      started_at: null,
      run_at: eb.fn<Date>('now'),
    }))
    .where('tenant_id', '=', row.tenant_id)
    .where('id', '=', row.id)
    .returningAll()
    .executeTakeFirstOrThrow();
}

/** The job's row, locked; throws RhyzomeError `not_found`. */
export async function lockJob(tx: Tx, tenantId: string, id: string): Promise<JobRow> {
  const row = await tx
    .selectFrom('job')
    .selectAll()
    .where('tenant_id', '=', tenantId)
    .where('id', '=', id)
    .forUpdate()
    .executeTakeFirst();
  if (!row) throw new RhyzomeError('not_found', `There is no job “${id}” that you may see.`);
  return row;
}

/** The job that a removal takes the place of has ended; its worker can write no more, and its steps are undone first. */
export async function endSuperseded(tx: Tx, running: JobRow): Promise<void> {
  await tx
    .updateTable('job')
    .set((eb) => ({
      state: 'cancelled',
      message: 'a removal took its place',
      cancellable: false,
      finished_at: eb.fn<Date>('now'),
      fence: eb('fence', '+', 1),
      lease_owner: null,
      lease_until: null,
    }))
    .where('tenant_id', '=', running.tenant_id)
    .where('id', '=', running.id)
    .execute();
}
