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
  /** The shared storage that it makes disks on; null: on its own. */
  storage: string | null;
  capacity: NodeRoom;
  reserved: NodeRoom;
  /** How often each is promised: the node's own factor, else the installation's. */
  overcommit: NodeFactors;
  /** What is never promised of its memory. */
  memoryReserveMiB: number;
  /** What may be promised, by the factors. */
  promisable: NodeRoom;
  /** Resources that are placed there, those on their way out included. */
  placed: number;
  /** `advertise` of the rhyzome-grpc that holds its stream. */
  replica: string | null;
  lastSeenAt: Date;
  lastSeenSeconds: number;
  createdAt: Date;
}

export interface NodeFactors {
  vcpus: number;
  memory: number;
  disk: number;
}

/** What is set of a node alone; null: as in the installation. */
export interface NodeLimits {
  vcpuOvercommit?: number | null;
  memoryOvercommit?: number | null;
  diskOvercommit?: number | null;
  memoryReserveMiB?: number | null;
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
    n.cordoned, n.draining, n.epoch, n.fenced_at as "fencedAt", n.driver, n.agent_version as "agentVersion", n.kinds, n.labels, n.storage,
    jsonb_build_object('vcpus', n.vcpus, 'memoryMiB', n.memory_mib, 'diskGiB', n.disk_gib) as capacity,
    jsonb_build_object('vcpus', m.used_vcpus, 'memoryMiB', m.used_memory_mib, 'diskGiB', m.used_disk_gib) as reserved,
    jsonb_build_object('vcpus', coalesce(n.vcpu_overcommit, i.vcpu_overcommit), 'memory',
      coalesce(n.memory_overcommit, i.memory_overcommit), 'disk', coalesce(n.disk_overcommit, i.disk_overcommit)) as overcommit,
    coalesce(n.memory_reserve_mib, i.memory_reserve_mib) as "memoryReserveMiB",
    jsonb_build_object('vcpus', m.vcpus, 'memoryMiB', m.memory_mib, 'diskGiB', m.disk_gib) as promisable,
    (select count(*) from placement p where p.node_id = n.id) as placed,
    s.replica, n.last_seen_at as "lastSeenAt",
    greatest(0, floor(extract(epoch from now() - n.last_seen_at)))::int as "lastSeenSeconds",
    n.created_at as "createdAt"
  from node n cross join installation i join node_room m on m.node_id = n.id left join node_session s on s.node_id = n.id`;

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
    select coalesce(r.kind, p.kind) as kind, p.resource_id as id, coalesce(r.name, p.name, '(deleted)') as name,
      p.relation, p.tenant_id as tenant, count(*) over () as total
    from (
      select tenant_id, resource_id, max(kind) as kind, 
        coalesce(min(relation) filter (where relation <> 'reserved'), 'reserved') as relation, max(name) as name from (
        select tenant_id, resource_id, kind, tombstone_name as name, case when present then 'placed' when tombstoned_at is not null then 'tombstone' else 'leaving' end as relation
          from placement where node_id = ${nodeId}
        union all select tenant_id, resource_id, null, null, 'reserved' from reservation where node_id = ${nodeId}
        union all select tenant_id, id, 'instance', null, 'placed' from instance where node_id = ${nodeId}) every
      group by tenant_id, resource_id) p
    left join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
    order by p.tenant_id, name, id limit ${MAX_NAMED}`.execute(tx);
  return { resources: rows.map(({ total: _total, ...resource }) => resource), total: rows[0]?.total ?? 0 };
}

export interface Tombstone {
  tenant: string;
  kind: string;
  id: string;
  name: string | null;
  at: Date;
}

export interface HeldAddress {
  tenant: string;
  /** Null: a public address. */
  network: string | null;
  ip: string;
  heldAt: Date;
}

/** What was removed without the node and it has yet to remove, and the addresses that wait for that. The first of each. */
export async function leftOn(
  tx: Tx,
  nodeId: string,
): Promise<{ tombstones: Tombstone[]; heldAddresses: HeldAddress[] }> {
  const tombstones = await sql<Tombstone>`
    select tenant_id as tenant, kind, resource_id as id, tombstone_name as name, tombstoned_at as at from placement
    where node_id = ${nodeId} and tombstoned_at is not null order by tombstoned_at, resource_id limit ${MAX_NAMED}`.execute(
    tx,
  );
  const held = await sql<HeldAddress>`
    select h.tenant_id as tenant, coalesce(r.name, h.network_id::text) as network, host(h.ip) as ip, h.held_at as "heldAt"
    from held_address h left join resource r on r.tenant_id = h.tenant_id and r.id = h.network_id
    where h.node_id = ${nodeId} order by h.held_at, h.ip limit ${MAX_NAMED}`.execute(tx);
  return { tombstones: tombstones.rows, heldAddresses: held.rows };
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

/** Sets what may be promised of a node; what is promised already stays, also where that is more. */
export async function limitNode(tx: Tx, id: string, limits: NodeLimits): Promise<void> {
  const columns = {
    vcpu_overcommit: limits.vcpuOvercommit,
    memory_overcommit: limits.memoryOvercommit,
    disk_overcommit: limits.diskOvercommit,
    memory_reserve_mib: limits.memoryReserveMiB,
  };
  await tx.updateTable('node').set(columns).where('id', '=', id).execute();
}

/**
 * Forgets a node on which nothing is placed, and with one that is gone what it has yet to remove. Throws RhyzomeError
 * `in_use`, naming what is.
 */
export async function removeNode(tx: Tx, node: Pick<NodeView, 'id' | 'name'>): Promise<void> {
  // Placements' foreign keys wait for this lock, and fail once the node is gone.
  const { gone_at } = await tx
    .selectFrom('node')
    .select('gone_at')
    .where('id', '=', node.id)
    .forUpdate()
    .executeTakeFirstOrThrow();
  if (gone_at !== null)
    await tx.deleteFrom('placement').where('node_id', '=', node.id).where('present', '=', false).execute();
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

export async function readTombstoneMinutes(tx: Tx): Promise<number> {
  const result = await sql<{ minutes: number }>`
    select (extract(epoch from tombstone_after) / 60)::float8 as minutes from installation`.execute(tx);
  return result.rows[0]!.minutes;
}

export async function writeTombstoneMinutes(tx: Tx, minutes: number): Promise<void> {
  await sql`update installation set tombstone_after = make_interval(mins => ${minutes})`.execute(tx);
}
