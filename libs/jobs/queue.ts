/** The queue's own statements: claiming what is due, keeping the leases, giving a job back. The row is the queue entry. */

import { type RawBuilder, sql, type UpdateObject } from 'kysely';
import type { Waiting } from '#libs/core';
import type { Database, DB, Tx } from '#libs/db';
import { ALARM_CRASHES } from './limits.js';
import { type JobRow, wakeWorkers } from './rows.js';

/** A claimed job, and whether this is its first claim. */
export type ClaimedRow = JobRow & { first_claim: boolean };

/** Where no more than these are due, they are all that there is to choose from, whoever waits the longest among them. */
const FEW_DUE = 64;
/** What others may claim at the same moment is skipped; so many more are looked at, of so many more tenants. */
const SPARE = 8;

/** Not ended, and nobody holds it. What workers died of rests for longer each time, so that it does not take down all. */
const isFree = sql`j.finished_at is null and (j.lease_until is null or j.lease_until < now()
  - make_interval(secs => 10 * least(greatest(j.crashes - ${sql.lit(ALARM_CRASHES)}, 0), 30)))`;

/**
 * A tenant's due jobs, the oldest first. Said by comparing rows, for which only the index by tenant serves: by the one
 * that has all tenants' jobs in their order, finding one tenant's may mean reading everybody's.
 */
const ofTenant = (tenant: RawBuilder<unknown>) => sql`${isFree} and (j.tenant_id, j.run_at) >= (${tenant}, '-infinity')
  and (j.tenant_id, j.run_at) <= (${tenant}, now()) order by j.tenant_id, j.run_at`;

/**
 * Up to `limit` due jobs, fairly: the tenant of which the fewest are being run comes first, then who has waited the
 * longest. Where many are due, a tenant's oldest are found by index for each tenant that has any, so that the cost does
 * not follow from how many others wait. They are locked one by one in their order, and as they were when they were found.
 */
export function dueJobs(limit: number): RawBuilder<{ tenant_id: string; id: string; first_claim: boolean }> {
  const few = sql.lit(FEW_DUE);
  const some = sql.lit(limit + SPARE);
  return sql`
    with recursive head as materialized (
      select tenant_id, id, run_at, fence, lease_owner from job j where ${isFree} and j.run_at <= now() order by j.run_at limit ${few}
    ), crowd as materialized (
      select count(*) = ${few} as is_there from head
    ), tenants as (
      (select tenant_id from job where finished_at is null and (select is_there from crowd) order by tenant_id limit 1)
      union all
      select (select j.tenant_id from job j where j.finished_at is null and j.tenant_id > t.tenant_id order by j.tenant_id limit 1)
      from tenants t where t.tenant_id is not null
    ), busy as materialized (
      select tenant_id, count(*) as jobs from job where lease_owner is not null and lease_until > now() group by tenant_id
    ), waiting as (
      select t.tenant_id, coalesce(b.jobs, 0) as jobs, first.run_at
      from tenants t left join busy b using (tenant_id) cross join lateral (
        select run_at from job j where ${ofTenant(sql`t.tenant_id`)} limit 1) first
      order by jobs, first.run_at limit ${some}
    ), candidates as (
      select * from head where not (select is_there from crowd)
      union all
      select w.tenant_id, d.* from waiting w cross join lateral (
        select id, run_at, fence, lease_owner from job j where ${ofTenant(sql`w.tenant_id`)} limit ${some}) d
    ), turns as (
      select c.*, coalesce(b.jobs, 0) + row_number() over (partition by c.tenant_id order by c.run_at) as turn
      from candidates c left join busy b using (tenant_id) order by turn, run_at
    )
    select t.tenant_id, t.id, locked.first_claim from turns t cross join lateral (
      select j.started_at is null as first_claim from job j
      where j.tenant_id = t.tenant_id and j.id = t.id and j.fence = t.fence
        and j.lease_owner is not distinct from t.lease_owner and (j.lease_until is null or j.lease_until < now())
      for update skip locked) locked
    limit ${sql.lit(limit)}`;
}

/** Claims up to `limit` due jobs of all tenants for `owner`; jobs that another claims meanwhile are skipped. */
export async function claimDue(db: Database, owner: string, leaseMs: number, limit: number): Promise<ClaimedRow[]> {
  const query = sql<ClaimedRow>`
    with due as (${dueJobs(limit)})
    update job j set lease_owner = ${owner}, lease_until = ${later(leaseMs)},
      fence = j.fence + 1, started_at = coalesce(j.started_at, now()),
      attempts = j.attempts + case when due.first_claim then 1 else 0 end,
      crashes = j.crashes + case when j.lease_owner is null then 0 else 1 end,
      state = case when j.phase = 'undo' and j.outcome = 'cancelled' then 'cancelling' when j.state = 'queued' then 'running' else j.state end
    from due where j.tenant_id = due.tenant_id and j.id = due.id
    returning j.*, due.first_claim`;
  const rows = await db.operatorInOrder(query.compile(db.builder));
  if (rows.length > 0) db.wake('rhyzome_event');
  return rows;
}

/** Makes leases last `leaseMs` from now. Parameters: milliseconds, owner, ids of jobs. */
export const renewLeases = `
  update job set lease_until = now() + make_interval(secs => $1::float8 / 1000)
  where lease_owner = $2 and finished_at is null and id = any ($3::uuid[])`;

/** Ends the lease; the job is due again after `delayMs`. */
export async function giveBack(tx: Tx, row: JobRow, delayMs: number, changes: UpdateObject<DB, 'job'>): Promise<void> {
  await writeJob(tx, row, { ...changes, lease_owner: null, lease_until: null, run_at: later(delayMs) });
}

/**
 * The job waits: its worker is free for others until there is news, or for `retryMs`. In a transaction that holds its lease;
 * `current` is the row as it is there. News that came since it was claimed make it due at once.
 */
export async function park(
  tx: Tx,
  row: JobRow,
  current: JobRow,
  { waitingFor, retryMs, changes = {} }: { waitingFor: Waiting; retryMs: number; changes?: UpdateObject<DB, 'job'> },
): Promise<void> {
  const state = current.state === 'cancelling' ? 'cancelling' : waitingFor.outside ? 'waiting' : 'running';
  const woken = current.wakes > row.wakes || current.phase !== row.phase;
  if (woken) wakeWorkers();
  await giveBack(tx, row, woken ? 0 : retryMs, { ...changes, state, message: waitingFor.message, failures: 0 });
}

/** Changes the job's row. */
export async function writeJob(tx: Tx, row: JobRow, changes: UpdateObject<DB, 'job'>): Promise<void> {
  await tx.updateTable('job').set(changes).where('tenant_id', '=', row.tenant_id).where('id', '=', row.id).execute();
}

/** A time by the database's clock, which is the one that claims and deadlines are compared with. */
export function later(delayMs: number) {
  return sql<Date>`now() + make_interval(secs => ${delayMs / 1000}::float8)`;
}
