/**
 * Alarms about nodes: one for each node that is away for long, and one for each machine on a node that is gone, which its
 * users see. Raised and cleared by comparing what is with what was told.
 */
import { sql } from 'kysely';
import type { Database } from '#libs/db';
import { clearAlarm, raiseAlarm } from '#libs/jobs';

const AT_ONCE = 500;

export async function syncNodeAlarms(db: Database, alarmAfterSeconds: number): Promise<void> {
  await raiseUnreachable(db, alarmAfterSeconds);
  await clearOfNodes(db);
  await raiseGone(db);
  await clearGone(db);
}

async function raiseUnreachable(db: Database, afterSeconds: number): Promise<void> {
  const silent = await sql<{ id: string; name: string; seen: Date }>`
    select n.id, n.name, n.last_seen_at as seen from node n
    where node_away_since(n) < now() - make_interval(secs => ${afterSeconds}) and not exists (select from alarm a
      where a.tenant_id = 'system' and a.code = 'node_unreachable' and a.cause = n.id::text and a.cleared_at is null)
    limit ${AT_ONCE}`.execute(db.operator);
  for (const { id, name, seen } of silent.rows) {
    const message = `Node ${name} was last heard at ${seen.toISOString()}. Look at its agent and its network; when its machine is off for good, say \`rhyzome node fence ${name} --confirm-off\`.`;
    await db.operatorTransaction((tx) =>
      raiseAlarm(tx, { tenantId: null, code: 'node_unreachable', cause: id, nodeId: id, message }),
    );
  }
}

/** A node that is heard, gone or removed is away no more, and needs no fence by the clock. */
async function clearOfNodes(db: Database): Promise<void> {
  const done = await sql<{ code: 'node_unreachable' | 'fence_failed'; cause: string }>`
    select a.code, a.cause from alarm a left join node n on n.id::text = a.cause
    where a.tenant_id = 'system' and a.code in ('node_unreachable', 'fence_failed') and a.cleared_at is null
      and (n.id is null or node_state(n) <> 'unreachable') limit ${AT_ONCE}`.execute(db.operator);
  for (const { code, cause } of done.rows)
    await db.operatorTransaction((tx) => clearAlarm(tx, { tenantId: null, code, cause }));
}

async function raiseGone(db: Database): Promise<void> {
  const struck = await sql<{ tenant_id: string; resource_id: string; node_id: string; name: string }>`
    select p.tenant_id, p.resource_id, n.id as node_id, n.name from node n join placement p on p.node_id = n.id
    join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
    where n.gone_at is not null and p.present and p.kind = 'instance' and not exists (select from alarm a
      where a.tenant_id = p.tenant_id and a.code = 'node_gone' and a.cause = p.resource_id::text and a.cleared_at is null)
    limit ${AT_ONCE}`.execute(db.operator);
  for (const { tenant_id: tenantId, resource_id: id, node_id: nodeId, name } of struck.rows) {
    const message = `Node ${name}, which the machine is on, is gone. The machine is off until the node is back or the machine is brought up elsewhere; it can be deleted.`;
    const resource = { kind: 'instance', id };
    await db.operatorTransaction((tx) =>
      raiseAlarm(tx, { tenantId, code: 'node_gone', cause: id, resource, nodeId, message }),
    );
  }
}

/** The node is back, or the machine is elsewhere, or is no more. */
async function clearGone(db: Database): Promise<void> {
  const done = await sql<{ tenant_id: string; cause: string }>`
    select a.tenant_id, a.cause from alarm a
    where a.code = 'node_gone' and a.cleared_at is null and not exists (
      select from placement p join node n on n.id = p.node_id
      where p.tenant_id = a.tenant_id and p.resource_id = a.resource_id and p.present and n.gone_at is not null)
    limit ${AT_ONCE}`.execute(db.operator);
  for (const { tenant_id: tenantId, cause } of done.rows)
    await db.operatorTransaction((tx) => clearAlarm(tx, { tenantId, code: 'node_gone', cause }));
}
