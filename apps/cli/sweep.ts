/**
 * The sweep as an administrator sees it: what nobody owns on nodes and what becomes of it, what nodes have lost, what in the
 * database belongs to nothing; and an administrator's words on it.
 */
import { sql } from 'kysely';
import { isUuid, printable, RhyzomeError } from '#libs/core';
import { type Tx, wakeAfterCommit } from '#libs/db';
import { leftoverRules } from '#libs/nodes';

export interface OrphanView {
  node: string;
  kind: string;
  id: string;
  tenant: string;
  state: string | null;
  sizeBytes: number | null;
  firstSeenAt: Date;
  lastSeenAt: Date;
  inventories: number;
  /** What becomes of it. */
  fate: 'removing' | 'approved' | 'due' | 'waiting' | 'reported' | 'held' | 'noTombstone' | 'unknownKind';
  /** When it has waited long enough. */
  dueAt: Date;
  failure: { code: string; message: string } | null;
}

export interface MissingView {
  node: string;
  kind: string;
  id: string;
  tenant: string;
  name: string | null;
  firstSeenAt: Date;
  inventories: number;
}

export interface LeftoverView {
  rule: string;
  title: string;
  id: string;
  tenant: string;
  firstSeenAt: Date;
  looks: number;
  isMended: boolean;
}

export interface RemovalView {
  node: string;
  kind: string;
  id: string;
  tenant: string;
  removedAt: Date;
  /** On whose word; null: by itself. */
  approvedBy: string | null;
}

export interface InventoryView {
  node: string;
  takenAt: Date;
  items: number;
}

export interface SweepSettings {
  mode: 'remove' | 'report';
  afterHours: number;
  /** A restored database has not been compared with the nodes yet. */
  isHeld: boolean;
}

/** Rows of one list. */
export const MOST = 1_000;
export const MOST_REMOVALS = 20;

const fate = sql`case
  when nodes_are_held() then 'held'
  when o.asked_at is not null then 'removing'
  when o.kind not in ('instance', 'network', 'disk', 'snapshot') then 'unknownKind'
  when o.kind in ('disk', 'snapshot') and not exists (select from disk_tombstone t
    where t.tenant_id = o.tenant_id and t.id = o.id and t.node_id = o.node_id) then 'noTombstone'
  when o.approved_at is not null then 'approved'
  when i.sweep_mode = 'report' then 'reported'
  when o.inventories >= 2 and o.first_seen_at < now() - i.sweep_after then 'due'
  else 'waiting' end`;

/** The oldest first; at most so many. */
export async function listOrphans(tx: Tx, limit = MOST): Promise<OrphanView[]> {
  const result = await sql<OrphanView>`
    select n.name as node, o.kind, o.id, o.tenant_id as tenant, o.state, o.size_bytes as "sizeBytes",
      o.first_seen_at as "firstSeenAt", o.last_seen_at as "lastSeenAt", o.inventories, ${fate} as fate,
      o.first_seen_at + i.sweep_after as "dueAt", o.failure
    from orphan o join node n on n.id = o.node_id cross join installation i
    order by n.name, o.first_seen_at, o.id limit ${limit}`.execute(tx);
  return result.rows;
}

export async function listMissing(tx: Tx): Promise<MissingView[]> {
  const result = await sql<MissingView>`
    select n.name as node, m.kind, m.resource_id as id, m.tenant_id as tenant, r.name, m.first_seen_at as "firstSeenAt",
      m.inventories
    from missing_placement m join node n on n.id = m.node_id
    left join resource r on r.tenant_id = m.tenant_id and r.id = m.resource_id
    order by n.name, m.first_seen_at, m.resource_id limit ${MOST}`.execute(tx);
  return result.rows;
}

export async function listLeftovers(tx: Tx): Promise<LeftoverView[]> {
  const result = await sql<Omit<LeftoverView, 'title' | 'isMended'>>`
    select rule, id, tenant_id as tenant, first_seen_at as "firstSeenAt", looks from leftover
    order by rule, first_seen_at, id limit ${MOST}`.execute(tx);
  return result.rows.map((row) => {
    const rule = leftoverRules.find(({ name }) => name === row.rule);
    return { ...row, title: rule?.title ?? row.rule, isMended: rule?.mend !== undefined };
  });
}

/** The last ones, the newest first. */
export async function listRemovals(tx: Tx): Promise<RemovalView[]> {
  const result = await sql<RemovalView>`
    select n.name as node, v.kind, v.id, v.tenant_id as tenant, v.removed_at as "removedAt", v.approved_by as "approvedBy"
    from sweep_removal v join node n on n.id = v.node_id order by v.removed_at desc, v.id limit ${MOST_REMOVALS}`.execute(
    tx,
  );
  return result.rows;
}

export async function listInventories(tx: Tx): Promise<InventoryView[]> {
  const result = await sql<InventoryView>`
    select n.name as node, v.taken_at as "takenAt", v.items from node_inventory v join node n on n.id = v.node_id
    order by n.name`.execute(tx);
  return result.rows;
}

export async function readSweepSettings(tx: Tx): Promise<SweepSettings> {
  const result = await sql<SweepSettings>`
    select sweep_mode as mode, (extract(epoch from sweep_after) / 3600)::float8 as "afterHours",
      nodes_are_held() as "isHeld" from installation`.execute(tx);
  return result.rows[0]!;
}

export async function writeSweepSettings(
  tx: Tx,
  change: { mode?: 'remove' | 'report'; afterHours?: number },
): Promise<void> {
  const { mode = null, afterHours = null } = change;
  await sql`update installation set sweep_mode = coalesce(${mode}, sweep_mode),
    sweep_after = coalesce(make_interval(hours => ${afterHours}), sweep_after)`.execute(tx);
}

/** Asks nodes for an inventory now, or one; for all, also what stands at the identity provider is compared soon. Returns how many nodes there are to ask. */
export async function wantInventories(tx: Tx, nodeId?: string): Promise<number> {
  if (nodeId === undefined) await sql`update installation set accounts_wanted_at = now()`.execute(tx);
  const which = nodeId === undefined ? sql`true` : sql`node_id = ${nodeId}`;
  const wanted = await sql`update node_inventory set wanted_at = now() where ${which} returning 1`.execute(tx);
  wakeAfterCommit('rhyzome_sweep');
  return wanted.rows.length;
}

/** Throws RhyzomeError `conflict` while a restored database has not been compared with the nodes. */
export async function refuseWhileHeld(tx: Tx): Promise<void> {
  if (!(await readSweepSettings(tx)).isHeld) return;
  throw new RhyzomeError(
    'conflict',
    'The database was restored from a backup and has not been compared with the nodes yet: `rhyzome restore report`.',
  );
}

/**
 * An administrator's word on what nobody owns on a node: what has waited long enough goes beyond the share of a day, with
 * `all` also what has not. Never a disk or snapshot without a tombstone. Returns what it was about.
 */
export async function approveOrphans(
  tx: Tx,
  nodeId: string,
  by: string,
  all: boolean,
): Promise<{ kind: string; id: string }[]> {
  await refuseWhileHeld(tx);
  const approved = await sql<{ kind: string; id: string }>`
    update orphan o set approved_at = now(), approved_by = ${by} from installation i
    where o.node_id = ${nodeId} and o.kind in ('instance', 'network', 'disk', 'snapshot')
      and (o.kind in ('instance', 'network') or exists (select from disk_tombstone t
        where t.tenant_id = o.tenant_id and t.id = o.id and t.node_id = o.node_id))
      and (${all} or (o.inventories >= 2 and o.first_seen_at < now() - i.sweep_after))
    returning o.kind, o.id`.execute(tx);
  await wantInventories(tx, nodeId);
  return approved.rows;
}

export interface OneOrphan {
  tenantId: string;
  kind: string;
  id: string;
  needsTombstone: boolean;
}

/** Throws RhyzomeError `not_found`; `conflict` where the sweep cannot remove it. */
export async function findOrphan(
  tx: Tx,
  node: { id: string; name: string },
  kind: string,
  id: string,
): Promise<OneOrphan> {
  await refuseWhileHeld(tx);
  const found = isUuid(id)
    ? await sql<OneOrphan>`
        select o.tenant_id as "tenantId", o.kind, o.id, o.kind in ('disk', 'snapshot') and not exists (
          select from disk_tombstone t where t.tenant_id = o.tenant_id and t.id = o.id and t.node_id = o.node_id
        ) as "needsTombstone"
        from orphan o where o.node_id = ${node.id} and o.kind = ${kind} and o.id = ${id} for update`.execute(tx)
    : { rows: [] };
  const [orphan] = found.rows;
  if (!orphan)
    throw new RhyzomeError(
      'not_found',
      `Node ${node.name} has no ${printable(kind)} ${printable(id)} that nobody owns. \`rhyzome sweep\` shows what it has.`,
    );
  if (!['instance', 'network', 'disk', 'snapshot'].includes(orphan.kind))
    throw new RhyzomeError('conflict', `This version does not know what a ${printable(kind)} is, and removes none.`);
  return orphan;
}

/**
 * An administrator's word on one: it goes now. For a disk or snapshot that the database does not know to be deleted this
 * word is the tombstone. Throws RhyzomeError `in_use` where the database knows it as somebody's.
 */
export async function removeOrphan(tx: Tx, nodeId: string, orphan: OneOrphan, by: string): Promise<void> {
  if (orphan.needsTombstone) {
    const known = await sql<{ name: string }>`
      select name from resource where tenant_id = ${orphan.tenantId} and id = ${orphan.id}
      union all select name from deleted_disk where tenant_id = ${orphan.tenantId} and id = ${orphan.id}`.execute(tx);
    if (known.rows[0])
      throw new RhyzomeError(
        'in_use',
        `It is ${orphan.kind} ${known.rows[0].name} of tenant ${orphan.tenantId}, which is not placed on this node. Delete it there, if it is to go.`,
      );
    await sql`insert into disk_tombstone (tenant_id, id, node_id, kind, word_of)
      values (${orphan.tenantId}, ${orphan.id}, ${nodeId}, ${orphan.kind}, ${by})`.execute(tx);
  }
  await sql`update orphan set approved_at = now(), approved_by = ${by} where tenant_id = ${orphan.tenantId}
    and kind = ${orphan.kind} and id = ${orphan.id} and node_id = ${nodeId}`.execute(tx);
  await wantInventories(tx, nodeId);
}
