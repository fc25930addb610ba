/**
 * What a node says that it has, compared with what is placed there. Both ways are written down: what nobody owns, and what
 * should be there and is not. Nothing is removed here (sweep.ts), and only the node's latest stream is heard.
 */
import { sql } from 'kysely';
import { isTenantId, isUuid } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { clearAlarm, raiseAlarm } from '#libs/jobs';
import { type Observed, Phase } from '#libs/rpc';
import { objectFrom, textFrom } from './node-words.js';
import type { NodeSession } from './registry.js';
import { recordGone } from './removals.js';

const MAX_STATUS_BYTES = 16 * 1024;
const MAX_WORD = 63;
/** An inventory takes its time; what was reported later than that before its end proves nothing. */
const INVENTORY_TAKES_MS = 60_000;

export interface Findings {
  orphans: number;
  missing: number;
}

/** What is told of one thing on a node; undefined: not in words that this controller knows. */
function itemOf({ ref, statusJson, phase }: Observed) {
  if (!ref || !isTenantId(ref.tenantId) || !isUuid(ref.id) || phase === Phase.PHASE_ABSENT) return undefined;
  const status = objectFrom(statusJson, MAX_STATUS_BYTES, 'A status');
  const { sizeBytes, powerState } = status ?? {};
  return {
    tenant: ref.tenantId,
    kind: textFrom(ref.kind, MAX_WORD, 'A kind’s name'),
    id: ref.id,
    size: Number.isSafeInteger(sizeBytes) ? (sizeBytes as number) : null,
    state: typeof powerState === 'string' ? textFrom(powerState, MAX_WORD, 'A state') : null,
  };
}

/**
 * Writes down what a node has and nobody owns, and what it lacks. Undefined when a later stream of the node has taken over.
 * Throws RhyzomeError `malformed_request` for what cannot be stored.
 */
export async function recordInventory(
  db: Database,
  session: NodeSession,
  inventory: readonly Observed[],
): Promise<Findings | undefined> {
  const items = new Map<string, NonNullable<ReturnType<typeof itemOf>>>();
  for (const observed of inventory) {
    const item = itemOf(observed);
    if (item) items.set(`${item.tenant} ${item.kind} ${item.id}`, item);
  }
  const list = JSON.stringify([...items.values()]);
  return db.operatorTransaction(async (tx) => {
    if (!(await beginInventory(tx, session, items.size))) return undefined;
    await forgetGone(tx, session.nodeId, list);
    const orphans = await recordOrphans(tx, session.nodeId, list);
    const missing = await recordMissing(tx, session, list);
    await recordHeld(tx, session.nodeId, list);
    await tellAlarms(tx, session.nodeId);
    return { orphans, missing };
  });
}

/** Of what was found twice: what is under way right now is nobody's concern. */
async function tellAlarms(tx: Tx, nodeId: string): Promise<void> {
  const found = await sql<{ node: string; orphans: number; missing: number }>`
    select n.name as node,
      (select count(*) from orphan o where o.node_id = n.id and o.inventories >= 2)::int as orphans,
      (select count(*) from missing_placement m where m.node_id = n.id and m.inventories >= 2)::int as missing
    from node n where n.id = ${nodeId}`.execute(tx);
  const { node, orphans, missing } = found.rows[0]!;
  const tell = (code: 'node_orphans' | 'node_missing', count: number, message: string) =>
    count > 0
      ? raiseAlarm(tx, { tenantId: null, code, cause: nodeId, nodeId, message, details: { node, count } })
      : clearAlarm(tx, { tenantId: null, code, cause: nodeId });
  await tell('node_orphans', orphans, `Node ${node} has ${orphans} that nobody owns; \`rhyzome sweep\` shows them.`);
  await tell(
    'node_missing',
    missing,
    `Node ${node} has lost ${missing} that it had made; \`rhyzome sweep\` shows them.`,
  );
}

/** Inventories of one node follow each other: the row is locked. False where the session is not the latest. */
async function beginInventory(tx: Tx, { nodeId, session }: NodeSession, items: number): Promise<boolean> {
  const begun = await sql`
    insert into node_inventory (node_id, session, items)
    select ${nodeId}, ${session}, ${items}
    where exists (select from node_session s where s.node_id = ${nodeId} and s.session = ${session})
    on conflict (node_id) do update set session = excluded.session, taken_at = excluded.taken_at, items = excluded.items,
      wanted_at = null
    where node_inventory.session <= excluded.session returning 1`.execute(tx);
  return begun.rows.length === 1;
}

const itemsOf = (list: string) => sql`
  jsonb_to_recordset(${list}::jsonb) as i (tenant text, kind text, id uuid, size bigint, state text)`;

/** What was nobody's and is gone, or is somebody's now; what the node was told to remove has been removed. */
async function forgetGone(tx: Tx, nodeId: string, list: string): Promise<void> {
  // `in`, so that the list is read once and not for each of them.
  const isStillUnowned = sql`(o.tenant_id, o.kind, o.id) in (
    select i.tenant, i.kind, i.id from ${itemsOf(list)} where not exists (select from placement p
      where p.tenant_id = i.tenant and p.resource_id = i.id and p.node_id = ${nodeId}))`;
  const wasRemoved = sql`g.asked_at is not null and not exists (select from placement p
    where p.tenant_id = g.tenant_id and p.resource_id = g.id and p.node_id = g.node_id)`;
  await recordGone(tx, sql`o.node_id = ${nodeId} and not ${isStillUnowned}`, wasRemoved);
}

async function recordOrphans(tx: Tx, nodeId: string, list: string): Promise<number> {
  const written = await sql`
    insert into orphan as o (tenant_id, kind, id, node_id, size_bytes, state)
    select i.tenant, i.kind, i.id, ${nodeId}, i.size, i.state from ${itemsOf(list)}
    where not exists (select from placement p
      where p.tenant_id = i.tenant and p.resource_id = i.id and p.node_id = ${nodeId})
    order by 1, 2, 3
    on conflict (tenant_id, kind, id, node_id) do update set last_seen_at = excluded.last_seen_at,
      inventories = o.inventories + 1, size_bytes = excluded.size_bytes, state = excluded.state
    returning 1`.execute(tx);
  return written.rows.length;
}

/** While nodes are told nothing, what they say of what is placed there, to compare it with what a restored database wants. */
async function recordHeld(tx: Tx, nodeId: string, list: string): Promise<void> {
  await sql`
    update placement p set status = coalesce(p.status, '{}')
      || jsonb_strip_nulls(jsonb_build_object('sizeBytes', i.size, 'powerState', i.state))
    from ${itemsOf(list)}
    where nodes_are_held() and p.node_id = ${nodeId} and p.tenant_id = i.tenant and p.resource_id = i.id`.execute(tx);
}

/** Only what it had said that it made, some time before this inventory, or before the backup. */
async function recordMissing(tx: Tx, { nodeId }: NodeSession, list: string): Promise<number> {
  const found = await sql`
    with lacking as materialized (
      select p.tenant_id, p.resource_id, p.node_id, p.kind from placement p
      where p.node_id = ${nodeId} and p.present and p.phase = 'ready'
        and (nodes_are_held() or (p.observed_revision = p.revision
          and p.observed_at < now() - make_interval(secs => ${INVENTORY_TAKES_MS / 1000})))
        and not exists (select from ${itemsOf(list)} where i.tenant = p.tenant_id and i.id = p.resource_id)),
    back as (
      delete from missing_placement m where m.node_id = ${nodeId} and not exists (
        select from lacking l where l.tenant_id = m.tenant_id and l.resource_id = m.resource_id))
    insert into missing_placement as m (tenant_id, resource_id, node_id, kind)
    select tenant_id, resource_id, node_id, kind from lacking order by 1, 2
    on conflict (tenant_id, resource_id, node_id) do update set last_seen_at = excluded.last_seen_at,
      inventories = m.inventories + 1
    returning 1`.execute(tx);
  return found.rows.length;
}
