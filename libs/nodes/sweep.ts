/**
 * What the sweep removes from a node, of what nobody owns there: late, little at a time, and a disk or snapshot only with
 * the database's word that it was deleted. Whoever holds the node's stream sends it; the agent has the last look.
 */
import { sql } from 'kysely';
import type { Database, Tx } from '#libs/db';
import { type UnownedOutcome, UnownedResult } from '#libs/rpc';
import { failureFrom } from './node-words.js';
import type { NodeSession } from './registry.js';
import { recordGone } from './removals.js';

export interface Unowned {
  tenantId: string;
  kind: string;
  id: string;
}

/** How many are asked for at once: the next inventory brings the next ones. */
const MOST_AT_ONCE = 100;

/**
 * Chooses what this node is to remove now, and writes down that it was asked to. What builds on something goes before it,
 * in an inventory of its own. What was asked for before is asked for again while it is still there.
 */
export async function chooseUnowned(db: Database, { nodeId, session }: NodeSession): Promise<Unowned[]> {
  return db.operatorTransaction(async (tx) => {
    // Two choices for one node at once would each take the whole share.
    const mine =
      await sql`select 1 from node_inventory where node_id = ${nodeId} and session = ${session} for update`.execute(tx);
    if (mine.rows.length === 0) return [];
    const due = await sql<{ tenant_id: string; kind: string; id: string; is_new: boolean; is_approved: boolean }>`
      select o.tenant_id, o.kind, o.id, o.asked_at is null as is_new, o.approved_at is not null as is_approved
      from orphan o cross join installation i
      where o.node_id = ${nodeId} and not nodes_are_held() and o.kind in ('instance', 'network', 'disk', 'snapshot')
        and (o.approved_at is not null
          or (i.sweep_mode = 'remove' and o.inventories >= 2 and o.first_seen_at < now() - i.sweep_after))
        and (o.kind in ('instance', 'network') or exists (select from disk_tombstone t
          where t.tenant_id = o.tenant_id and t.id = o.id and t.node_id = o.node_id))
        and (o.kind = 'instance' or not exists (select from orphan b
          where b.tenant_id = o.tenant_id and b.node_id = o.node_id
            and (b.kind = 'instance' or (b.kind = 'snapshot' and o.kind = 'disk'))))
      order by o.asked_at nulls last, o.first_seen_at, o.id limit ${MOST_AT_ONCE}`.execute(tx);
    const share = due.rows.some(({ is_new, is_approved }) => is_new && !is_approved) ? await shareLeft(tx, nodeId) : 0;
    let left = share;
    const chosen = due.rows.filter(({ is_new, is_approved }) => !is_new || is_approved || left-- > 0);
    for (const { tenant_id, kind, id } of chosen.filter(({ is_new }) => is_new)) {
      await sql`update orphan set asked_at = now() where tenant_id = ${tenant_id} and kind = ${kind} and id = ${id}
        and node_id = ${nodeId}`.execute(tx);
    }
    return chosen.map(({ tenant_id: tenantId, kind, id }) => ({ tenantId, kind, id }));
  });
}

/** A tenth of what the node has, at least one, less what was taken within a day without an administrator's word. */
async function shareLeft(tx: Tx, nodeId: string): Promise<number> {
  const found = await sql<{ left: number }>`
    select greatest(1, items / 10)
      - (select count(*) from orphan where node_id = ${nodeId} and asked_at is not null and approved_at is null)::int
      - (select count(*) from sweep_removal where node_id = ${nodeId} and approved_by is null
          and removed_at > now() - interval '1 day')::int as left
    from node_inventory where node_id = ${nodeId}`.execute(tx);
  return Math.max(0, found.rows[0]?.left ?? 0);
}

/** Writes what became of it. What was kept is looked at again by the next inventory; what failed is asked for again. */
export async function recordUnowned(
  db: Database,
  { nodeId, session }: NodeSession,
  outcome: UnownedOutcome,
): Promise<void> {
  const { ref, result } = outcome;
  if (!ref) return;
  const failure = failureFrom(outcome.failure);
  const mine = sql`o.tenant_id = ${ref.tenantId} and o.kind = ${ref.kind} and o.id::text = ${ref.id} and o.node_id = ${nodeId}
    and o.asked_at is not null
    and exists (select from node_session s where s.node_id = ${nodeId} and s.session = ${session})`;
  if (result === UnownedResult.UNOWNED_RESULT_REMOVED) {
    await db.operatorTransaction((tx) => recordGone(tx, mine, sql`true`));
    return;
  }
  const isFailure = result === UnownedResult.UNOWNED_RESULT_FAILED;
  await sql`update orphan o set failure = ${failure ? JSON.stringify(failure) : null}::jsonb,
    asked_at = case when ${isFailure} then o.asked_at end where ${mine}`.execute(db.operator);
}

/** Nodes, of these, whose inventory is due, or wanted by an administrator. */
export async function inventoriesDue(db: Database, nodeIds: readonly string[], everyMs: number): Promise<string[]> {
  const due = await sql<{ node_id: string }>`
    select id as node_id from unnest(${[...nodeIds]}::uuid[]) id left join node_inventory v on v.node_id = id
    where v.taken_at is null or v.taken_at < now() - make_interval(secs => ${everyMs / 1000}) or v.wanted_at is not null`.execute(
    db.operator,
  );
  return due.rows.map(({ node_id }) => node_id);
}

const TOMBSTONES_KEPT_DAYS = 180;
const REMOVALS_KEPT_DAYS = 90;

/** Forgets what no longer decides anything. */
export async function pruneSweep(db: Database): Promise<void> {
  await sql`delete from disk_tombstone t where at < now() - make_interval(days => ${TOMBSTONES_KEPT_DAYS})
    and not exists (select from orphan o where o.tenant_id = t.tenant_id and o.id = t.id and o.node_id = t.node_id)
    and not exists (select from placement p
      where p.tenant_id = t.tenant_id and p.resource_id = t.id and p.node_id = t.node_id)`.execute(db.operator);
  await sql`delete from sweep_removal where removed_at < now() - make_interval(days => ${REMOVALS_KEPT_DAYS})`.execute(
    db.operator,
  );
}
