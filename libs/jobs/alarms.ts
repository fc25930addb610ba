/**
 * Raising and clearing alarms: what somebody should look at. The same cause raises one alarm, however often it is raised,
 * until it is cleared. Events and the resource's condition `Alarm` follow by triggers. It knows no causes.
 */
import { sql } from 'kysely';
import { type AlarmCode, alarmCodes, newId, SYSTEM_TENANT } from '#libs/core';
import type { Tx } from '#libs/db';
import { lockSubject } from './rows.js';

export interface AlarmCause {
  /** Null: the platform's own; needs a transaction of the operator's. */
  tenantId: string | null;
  code: AlarmCode;
  /** What makes it the same alarm again: an id or a few words, at most 200 characters. */
  cause: string;
}

export interface NewAlarm extends AlarmCause {
  /** What is wrong, and what somebody can do about it. Tenants see it where a resource is named. */
  message: string;
  /** Whose users see it; it is locked. */
  resource?: { kind: string; id: string };
  /** A job whose end clears it. */
  jobId?: string;
  nodeId?: string;
  details?: Record<string, unknown>;
}

const MAX_CAUSE_CHARACTERS = 200;
const MAX_MESSAGE_CHARACTERS = 2_000;

/**
 * Raises it, or says anew what is wrong where it is raised already. True: it was not. In a transaction that has no lock on
 * the job yet, or one on the resource before: locks are taken in one order (`lockSubject`).
 */
export async function raiseAlarm(tx: Tx, alarm: NewAlarm): Promise<boolean> {
  const { resource, jobId = null, nodeId = null } = alarm;
  const tenantId = alarm.tenantId ?? SYSTEM_TENANT;
  const resourceId = resource?.id ?? null;
  if (resource) await lockSubject(tx, tenantId, resource.id);
  // A resource that is gone is known by the job that took it away.
  const result = await sql<{ isNew: boolean }>`
    insert into alarm as a (tenant_id, id, code, severity, cause, kind, resource_id, resource_name, resource_tags, created_by,
      job_id, node_id, message, details)
    select ${tenantId}, ${newId()}, ${alarm.code}, ${alarmCodes[alarm.code].severity}, ${alarm.cause.slice(0, MAX_CAUSE_CHARACTERS)},
      ${resource?.kind ?? null}, ${resourceId}::uuid, case when ${resourceId}::uuid is not null then coalesce(r.name, j.resource_name, '') end,
      coalesce(r.tags, j.resource_tags, '{}'), coalesce(r.created_by, j.created_by), ${jobId}::uuid, ${nodeId}::uuid,
      ${alarm.message.slice(0, MAX_MESSAGE_CHARACTERS)}, ${JSON.stringify(alarm.details ?? {})}::jsonb
    from (select) one
    left join resource r on r.tenant_id = ${tenantId} and r.id = ${resourceId}::uuid
    left join job j on j.tenant_id = ${tenantId} and j.id = ${jobId}::uuid
    on conflict (tenant_id, code, cause) where cleared_at is null
      do update set message = excluded.message, details = excluded.details, job_id = excluded.job_id, node_id = excluded.node_id
    returning xmax = 0 as "isNew"`.execute(tx);
  return result.rows[0]!.isNew;
}

/** The cause is gone. False: there was no such alarm. */
export async function clearAlarm(tx: Tx, { tenantId, code, cause }: AlarmCause): Promise<boolean> {
  const open = await tx
    .selectFrom('alarm')
    .select(['id', 'resource_id'])
    .where('tenant_id', '=', tenantId ?? SYSTEM_TENANT)
    .where('code', '=', code)
    .where('cause', '=', cause.slice(0, MAX_CAUSE_CHARACTERS))
    .where('cleared_at', 'is', null)
    .executeTakeFirst();
  if (!open) return false;
  if (open.resource_id) await lockSubject(tx, tenantId ?? SYSTEM_TENANT, open.resource_id);
  const cleared = await tx
    .updateTable('alarm')
    .set({ cleared_at: sql<Date>`clock_timestamp()` })
    .where('tenant_id', '=', tenantId ?? SYSTEM_TENANT)
    .where('id', '=', open.id)
    .where('cleared_at', 'is', null)
    .returning('id')
    .executeTakeFirst();
  return cleared !== undefined;
}
