/**
 * A network on the nodes: it stands wherever an instance that uses it is placed, and leaves with the last one; its router
 * is on one of them. What is desired there always follows from the rows as they are in the caller's transaction.
 */
import { sql } from 'kysely';
import type { Tx } from '#libs/db';
import { desireOnAll, withdraw } from '#libs/nodes';
import { readNetwork } from './known-network.js';
import { placedSpecs } from './node-specs.js';
import { membersText, type Span, spanOf } from './spanning.js';

const KIND = 'network';

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
  // So that the last writer is right.
  await lockNetworks(tx, tenantId, [id]);
  const known = await readNetwork(tx, tenantId, id, joining);
  if (!known) return null;
  const { standing, generation } = known;
  const span = spanOf(standing, known.routerId, router);
  const heard = standing.filter(({ nodeId }) => !routerOnly || nodeId === span.routerId);
  const told = [...placedSpecs(id, heard, span, known)].map(
    ([nodeId, spec]) => [nodeId, { generation, spec }] as const,
  );
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
