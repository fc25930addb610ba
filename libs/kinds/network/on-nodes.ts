/**
 * A network on the nodes: it stands wherever an instance that uses it is placed, and leaves with the last one; its router
 * is on one of them. What is desired there always follows from the rows as they are in the caller's transaction.
 */
import { createHash } from 'node:crypto';
import { sql } from 'kysely';
import type { Tags } from '#libs/core';
import type { Tx } from '#libs/db';
import type { NetworkSpec } from '#libs/drivers/contract';
import { type Desired, desireOnAll, withdraw } from '#libs/nodes';
import { type Door, type Guest, noParts, type Part, type PartFields, type PartSpec, partFields } from './part-specs.js';
import { leasesFor, membersText, partOf, type Span, type Standing, spanOf } from './spanning.js';

const KIND = 'network';

/** The gateway's MAC follows from the network's id, so that a router can move to another node unnoticed. */
export function gatewayMacOf(networkId: string): string {
  const bytes = createHash('sha256').update(`gateway/${networkId}`).digest().subarray(0, 6);
  bytes[0] = (bytes[0]! & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** Locks networks until the transaction ends, in the order of their ids: the last writer of each knows all that was written. */
export async function lockNetworks(tx: Tx, tenantId: string, ids: readonly string[]): Promise<void> {
  if (ids.length === 0) return;
  await tx
    .selectFrom('resource')
    .select('id')
    .where('tenant_id', '=', tenantId)
    .where('id', 'in', [...new Set(ids)])
    .orderBy('id')
    .forNoKeyUpdate()
    .execute();
}

interface Fields extends Omit<NetworkSpec, 'gatewayMac' | 'leases' | 'overlay' | keyof PartFields> {
  generation: number;
  door: Door | null;
  vni: number;
  /** The node that has its router so far. */
  routerId: string | null;
  toldMembers: string | null;
  /** The nodes that it stands on, in the order in which it came, and the one that joins them. */
  standing: Standing[] | null;
}

/** All that a network's spec is made of. */
interface Known extends Fields {
  parts: Part[];
  leases: (Guest & { mac: string; hostname: string | null })[];
}

/** Reads a network with its leases and parts. Locks it, so that the last writer is right. */
async function read(tx: Tx, tenantId: string, id: string, joining: string | undefined): Promise<Known | null> {
  await lockNetworks(tx, tenantId, [id]);
  const result = await sql<Fields>`
    select k.subnet, host(k.gateway) as gateway, k.subnet6, host(gateway6_of(k.subnet6, k.subnet, k.gateway)) as gateway6,
      k.dns, k.domain, k.mtu, r.generation, k.vni, k.router_node_id as "routerId", k.told_members as "toldMembers",
      (select json_build_object('privateKey', d.private_key, 'port', d.port) from wireguard_door d
        where d.tenant_id = k.tenant_id and d.network_id = k.id) as door,
      (select json_agg(json_build_object('nodeId', n.id, 'port', n.underlay_port, 'state', node_state(n),
          'address', case when n.underlay_mtu >= k.mtu then host(n.underlay) end) order by p.created_at nulls last, n.id)
        from node n left join placement p
          on p.tenant_id = k.tenant_id and p.resource_id = k.id and p.node_id = n.id and p.present
        where n.id = any (array(select q.node_id from placement q
          where q.tenant_id = k.tenant_id and q.resource_id = k.id and q.present) || ${joining ?? null}::uuid)) as standing
    from resource r join network k on k.tenant_id = r.tenant_id and k.id = r.id
    where r.tenant_id = ${tenantId} and r.id = ${id}`.execute(tx);
  const row = result.rows[0];
  if (!row) return null;
  const parts = await partsOf(tx, tenantId, id);
  const withTags = parts.some(({ spec }) => spec.kind === 'firewallRule');
  return { ...row, parts, leases: await leasesOf(tx, tenantId, id, withTags) };
}

interface Telling {
  joining?: string;
  /** The node that is to have its router, if it can. */
  router?: string;
  /** Only the router's node is told now; whoever looks next tells the others (`told_members`). */
  routerOnly?: boolean;
}

/** Tells every node that has the network, and `joining`, what it is now, each its part. Undo of joining: leaveNode. */
async function tellAll(
  tx: Tx,
  tenantId: string,
  id: string,
  { joining, router, routerOnly = false }: Telling = {},
): Promise<Span | null> {
  const known = await read(tx, tenantId, id, joining);
  if (!known) return null;
  const standing = known.standing ?? [];
  const span = spanOf(standing, known.routerId, router);
  const heard = standing.filter(({ nodeId }) => !routerOnly || nodeId === span.routerId);
  const told = heard.map((node) => [node.nodeId, desiredOf(id, node, span, known)] as const);
  await desireOnAll(tx, { tenantId, id, kind: KIND }, new Map(told));
  const members = routerOnly ? null : membersText(span);
  if (span.routerId === known.routerId && members === known.toldMembers) return span;
  await tx
    .updateTable('network')
    .set({ router_node_id: span.routerId, told_members: members })
    .where('tenant_id', '=', tenantId)
    .where('id', '=', id)
    .execute();
  return span;
}

/** What one node is told: what leads to guests and all that a router has only where that is. */
function desiredOf(id: string, node: Standing, span: Span, known: Known): Desired {
  const {
    generation,
    door,
    parts,
    leases,
    vni,
    routerId: _routerId,
    toldMembers: _told,
    standing: _standing,
    ...fields
  } = known;
  const walled = parts.some(({ spec }) => spec.kind === 'firewallRule');
  const part = partOf(node, span, { vni, walled });
  const doorHere = span.routerId === node.nodeId ? door : null;
  const spec: NetworkSpec = {
    ...fields,
    gatewayMac: gatewayMacOf(id),
    leases: leasesFor(part, leases),
    ...(part.isRouter ? partFields(parts, leases, doorHere, part.served) : noParts),
    overlay: part.overlay,
  };
  return { generation, spec };
}

async function partsOf(tx: Tx, tenantId: string, id: string): Promise<Part[]> {
  const result = await sql<{ resourceId: string; spec: PartSpec }>`
    select p.resource_id as "resourceId", p.spec || jsonb_build_object('kind', p.kind) as spec
    from network_part p join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
    where p.tenant_id = ${tenantId} and p.network_id = ${id} order by p.position, r.name, r.id`.execute(tx);
  return result.rows;
}

/** In the order of interfaces, then addresses; an instance's tags only where something asks for them. */
async function leasesOf(tx: Tx, tenantId: string, id: string, withTags: boolean): Promise<Known['leases']> {
  const tags = withTags
    ? sql`(select r.tags from resource r where r.tenant_id = l.tenant_id and r.id = l.instance_id)`
    : sql`null::jsonb`;
  const result = await sql<Omit<Known['leases'][number], 'tags'> & { tags: Tags | null }>`
    select host(l.ip) as ip, host(l.ip6) as ip6, l.mac, l.hostname, l.instance_id as "instanceId", v.node_id as "nodeId",
      ${tags} as tags
    from lease l left join reservation v on v.tenant_id = l.tenant_id and v.resource_id = l.instance_id
    where l.tenant_id = ${tenantId} and l.network_id = ${id}
    order by l.ordinal nulls last, l.ip`.execute(tx);
  return result.rows.map((row) => ({ ...row, tags: row.tags ?? {} }));
}

/** Lets networks stand on a node. */
export async function placeNetworks(tx: Tx, tenantId: string, nodeId: string, ids: readonly string[]): Promise<void> {
  for (const id of [...new Set(ids)].sort()) await tellAll(tx, tenantId, id, { joining: nodeId });
}

/** Tells every node that has the network what it is now. */
export async function refreshNetwork(tx: Tx, tenantId: string, id: string): Promise<void> {
  // Before looking where it stands: somebody may be placing it by what the rows were before.
  await lockNetworks(tx, tenantId, [id]);
  if (await isPlaced(tx, tenantId, id)) await tellAll(tx, tenantId, id);
}

/**
 * Moves a network's router to another of its nodes; false: that node cannot have it. Open connections through it may break.
 * `begin`: only that node is told, and makes it while the other still serves; `refreshNetwork` ends the move, and so does
 * whatever tells the network's nodes next, upkeep within a minute.
 */
export async function moveRouter(
  tx: Tx,
  tenantId: string,
  id: string,
  nodeId: string,
  begin = false,
): Promise<boolean> {
  const span = await tellAll(tx, tenantId, id, { router: nodeId, routerOnly: begin });
  return span?.routerId === nodeId;
}

async function isPlaced(tx: Tx, tenantId: string, id: string): Promise<boolean> {
  const placed = await tx
    .selectFrom('placement')
    .select('node_id')
    .where('tenant_id', '=', tenantId)
    .where('resource_id', '=', id)
    .where('present', '=', true)
    .limit(1)
    .executeTakeFirst();
  return placed !== undefined;
}

/**
 * The same of several, each once, locked in the order of their ids. Whoever changes what a network's spec is made of calls
 * it: leases, host names, and tags of instances, which firewall rules select by.
 */
export async function refreshNetworks(tx: Tx, tenantId: string, ids: readonly string[]): Promise<void> {
  for (const id of [...new Set(ids)].sort()) await refreshNetwork(tx, tenantId, id);
}

/** Takes networks from a node where no instance but `exceptInstance` uses them any more. */
export async function leaveNode(
  tx: Tx,
  tenantId: string,
  nodeId: string,
  ids: readonly string[],
  exceptInstance: string,
): Promise<void> {
  for (const id of [...new Set(ids)].sort()) {
    await lockNetworks(tx, tenantId, [id]);
    const used = await sql`
      select 1 from lease l
      join placement p on p.tenant_id = l.tenant_id and p.resource_id = l.instance_id and p.node_id = ${nodeId} and p.present
      where l.tenant_id = ${tenantId} and l.network_id = ${id} and l.instance_id <> ${exceptInstance} limit 1`.execute(
      tx,
    );
    if (used.rows.length > 0) continue;
    await withdraw(tx, { tenantId, id }, nodeId);
    // Its router moves to another node, if there is one.
    await tellAll(tx, tenantId, id);
  }
}
