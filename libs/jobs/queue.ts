/** The queue's own statements: claiming what is due, keeping the leases, giving a job back. The row is the queue entry. */

import { sql, type UpdateObject } from 'kysely';
import type { Database, DB, Tx } from '#libs/db';
import type { JobRow } from './rows.js';

/** A claimed job, and whether this is its first claim. */
export type ClaimedRow = JobRow & { first_claim: boolean };

/** Claims up to `limit` due jobs of all tenants for `owner`; jobs that another claims meanwhile are skipped. */
export async function claimDue(db: Database, owner: string, leaseMs: number, limit: number): Promise<ClaimedRow[]> {
  const result = await sql<ClaimedRow>`
    with due as (
      select tenant_id, id, started_at is null as first_claim from job
      where finished_at is null and run_at <= now() and (lease_until is null or lease_until < now())
      order by run_at limit ${limit} for update skip locked)
    update job j set lease_owner = ${owner}, lease_until = ${later(leaseMs)},
      fence = j.fence + 1, started_at = coalesce(j.started_at, now()),
      attempts = j.attempts + case when due.first_claim then 1 else 0 end,
      state = case when j.phase = 'undo' and j.outcome = 'cancelled' then 'cancelling' when j.state = 'queued' then 'running' else j.state end
    from due where j.tenant_id = due.tenant_id and j.id = due.id
    returning j.*, due.first_claim`.execute(db.operator);
  if (result.rows.length > 0) db.wake('rhyzome_event');
  return result.rows;
}

/** Makes leases last `leaseMs` from now. Parameters: milliseconds, owner, ids of jobs. */
export const renewLeases = `
  update job set lease_until = now() + make_interval(secs => $1::float8 / 1000)
  where lease_owner = $2 and finished_at is null and id = any ($3::uuid[])`;

/** Ends the lease; the job is due again after `delayMs`. */
export async function giveBack(tx: Tx, row: JobRow, delayMs: number, changes: UpdateObject<DB, 'job'>): Promise<void> {
  await writeJob(tx, row, { ...changes, lease_owner: null, lease_until: null, run_at: later(delayMs) });
}

/** Changes the job's row. */
export async function writeJob(tx: Tx, row: JobRow, changes: UpdateObject<DB, 'job'>): Promise<void> {
  await tx.updateTable('job').set(changes).where('tenant_id', '=', row.tenant_id).where('id', '=', row.id).execute();
}

/** A time by the database's clock, which is the one that claims compare with. */
function later(delayMs: number) {
  return sql<Date>`now() + make_interval(secs => ${delayMs / 1000})`;
}
