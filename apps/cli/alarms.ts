/** Alarms of all tenants and of the platform, as an administrator finds and acknowledges them. */
import { sql } from 'kysely';
import { isUuid, printable, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import type { AlarmRow } from '#libs/resources';

export interface AlarmFilter {
  tenant?: string;
  code?: string;
  /** Also those that are cleared. */
  all?: boolean;
  limit: number;
}

/** With the name of the node, where it has one that is still known. */
export type FoundAlarm = AlarmRow & { node: string | null };

const alarms = (tx: Tx) =>
  tx.selectFrom('alarm as a').leftJoin('node as n', 'n.id', 'a.node_id').selectAll('a').select('n.name as node');

/** The newest first. */
export async function listAlarms(tx: Tx, filter: AlarmFilter): Promise<FoundAlarm[]> {
  return alarms(tx)
    .$if(filter.tenant !== undefined, (qb) => qb.where('a.tenant_id', '=', filter.tenant!))
    .$if(filter.code !== undefined, (qb) => qb.where('a.code', '=', filter.code!))
    .$if(!filter.all, (qb) => qb.where('a.cleared_at', 'is', null))
    .orderBy('a.raised_at', 'desc')
    .orderBy('a.id', 'desc')
    .limit(filter.limit)
    .execute();
}

/** Throws RhyzomeError `not_found`. */
export async function findAlarm(tx: Tx, id: string): Promise<FoundAlarm> {
  const row = isUuid(id) ? await alarms(tx).where('a.id', '=', id).executeTakeFirst() : undefined;
  if (row) return row;
  throw new RhyzomeError('not_found', `There is no alarm “${printable(id)}”. \`rhyzome alarm list --all\` names them.`);
}

/** Says that somebody has taken note. The first who says so counts; false: somebody has. */
export async function acknowledgeAlarm(tx: Tx, alarm: AlarmRow, by: string): Promise<boolean> {
  const changed = await tx
    .updateTable('alarm')
    .set({ acknowledged_by: by, acknowledged_at: sql<Date>`now()` })
    .where('tenant_id', '=', alarm.tenant_id)
    .where('id', '=', alarm.id)
    .where('acknowledged_at', 'is', null)
    .returning('id')
    .executeTakeFirst();
  return changed !== undefined;
}
