/** The nodes as an administrator sees them: rows, what is placed on them, and the changes of a node's own row. */
import { sql } from 'kysely';
import { type Blocker, isUuid, printable, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import type { NodeState } from '#libs/nodes';

export interface NodeView {
  id: string;
  name: string;
  state: NodeState;
  /** Since when it is in this state. */
  stateSince: Date;
  cordoned: boolean;
  draining: boolean;
  /** Rises with each fence. */
  epoch: number;
  fencedAt: Date | null;
  driver: string;
  agentVersion: string;
  kinds: string[];
  labels: Record<string, string>;
  capacity: NodeRoom;
  reserved: NodeRoom;
  /** Resources that are placed there, those on their way out included. */
  placed: number;
  /** `advertise` of the rhyzome-grpc that holds its stream. */
  replica: string | null;
  lastSeenAt: Date;
  lastSeenSeconds: number;
  createdAt: Date;
}

interface NodeRoom {
  vcpus: number;
  memoryMiB: number;
  diskGiB: number;
}

export interface PlacedResource extends Blocker {
  tenant: string;
}

const MAX_NAMED = 20;

const selectNode = sql<NodeView>`
  select n.id, n.name,
    node_state(n) as state,
    case when n.told_state = node_state(n) then n.told_at else n.last_seen_at + node_silence() end as "stateSince",
    n.cordoned, n.draining, n.epoch, n.fenced_at as "fencedAt", n.driver, n.agent_version as "agentVersion", n.kinds, n.labels,
    jsonb_build_object('vcpus', n.vcpus, 'memoryMiB', n.memory_mib, 'diskGiB', n.disk_gib) as capacity,
    (select jsonb_build_object('vcpus', coalesce(sum(r.vcpus), 0), 'memoryMiB', coalesce(sum(r.memory_mib), 0),
      'diskGiB', coalesce(sum(r.disk_gib), 0)) from reservation r where r.node_id = n.id) as reserved,
    (select count(*) from placement p where p.node_id = n.id) as placed,
    s.replica, n.last_seen_at as "lastSeenAt",
    greatest(0, floor(extract(epoch from now() - n.last_seen_at)))::int as "lastSeenSeconds",
    n.created_at as "createdAt"
  from node n left join node_session s on s.node_id = n.id`;

export async function listNodes(tx: Tx): Promise<NodeView[]> {
  return (await sql<NodeView>`${selectNode} order by n.name`.execute(tx)).rows;
}

/** By id or name. Throws RhyzomeError `not_found`. */
export async function findNode(tx: Tx, idOrName: string): Promise<NodeView> {
  const which = isUuid(idOrName) ? sql`n.id = ${idOrName}` : sql`n.name = ${idOrName}`;
  const [node] = (await sql<NodeView>`${selectNode} where ${which}`.execute(tx)).rows;
  if (node) return node;
  throw new RhyzomeError('not_found', `There is no node “${printable(idOrName)}”. \`rhyzome node list\` names them.`);
}

/** The first resources that are placed on a node or have room reserved there, and how many there are. */
export async function placedOn(tx: Tx, nodeId: string): Promise<{ resources: PlacedResource[]; total: number }> {
  const { rows } = await sql<PlacedResource & { total: number }>`
    select coalesce(r.kind, p.kind) as kind, p.resource_id as id, coalesce(r.name, '(deleted)') as name,
      p.relation, p.tenant_id as tenant, count(*) over () as total
    from (
      select tenant_id, resource_id, max(kind) as kind, min(relation) as relation from (
        select tenant_id, resource_id, kind, case when present then 'placed' else 'leaving' end as relation
          from placement where node_id = ${nodeId}
        union all select tenant_id, resource_id, null, 'reserved' from reservation where node_id = ${nodeId}
        union all select tenant_id, id, 'instance', 'placed' from instance where node_id = ${nodeId}) every
      group by tenant_id, resource_id) p
    left join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
    order by p.tenant_id, name, id limit ${MAX_NAMED}`.execute(tx);
  return { resources: rows.map(({ total: _total, ...resource }) => resource), total: rows[0]?.total ?? 0 };
}

/**
 * No new machines are placed on a cordoned node; what is there stays. Taking it back ends a drain, too. Returns whether
 * that is a change.
 */
export async function cordonNode(tx: Tx, id: string, cordoned: boolean): Promise<boolean> {
  const changed = await tx
    .updateTable('node')
    .set({ cordoned, ...(!cordoned && { draining: false }) })
    .where('id', '=', id)
    .where((eb) => eb.or([eb('cordoned', '!=', cordoned), ...(cordoned ? [] : [eb('draining', '=', true)])]))
    .executeTakeFirst();
  return changed.numUpdatedRows === 1n;
}

/** What is there is to move away, and nothing new comes. Returns whether that is a change. */
export async function drainNode(tx: Tx, id: string): Promise<boolean> {
  const changed = await tx
    .updateTable('node')
    .set({ draining: true })
    .where('id', '=', id)
    .where('draining', '=', false)
    .executeTakeFirst();
  return changed.numUpdatedRows === 1n;
}

/** Forgets a node on which nothing is placed. Throws RhyzomeError `in_use`, naming what is. */
export async function removeNode(tx: Tx, node: Pick<NodeView, 'id' | 'name'>): Promise<void> {
  // Placements' foreign keys wait for this lock, and fail once the node is gone.
  await tx.selectFrom('node').select('id').where('id', '=', node.id).forUpdate().execute();
  const { resources, total } = await placedOn(tx, node.id);
  if (total > 0) {
    const named = resources
      .map((r) => `\n  ${r.kind} ${r.name} of tenant ${r.tenant} (${r.id}, ${r.relation})`)
      .join('');
    const more = total - resources.length;
    throw new RhyzomeError(
      'in_use',
      `On node ${node.name} there is still something; delete it first:${named}${more > 0 ? `\n  and ${more} more` : ''}`,
      { blockers: resources, extensions: { more } },
    );
  }
  const open = await tx
    .selectFrom('deed')
    .select('id')
    .where('node_id', '=', node.id)
    .where('state', '=', 'unclear')
    .executeTakeFirst();
  if (open)
    throw new RhyzomeError(
      'in_use',
      `Job ${open.id} waits for a word on what happened on node ${node.name}: \`rhyzome job resolve\`.`,
    );
  await tx.deleteFrom('deed').where('node_id', '=', node.id).execute();
  await tx.deleteFrom('node').where('id', '=', node.id).execute();
}
