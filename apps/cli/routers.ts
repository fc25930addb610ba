/**
 * Moves routers of networks between nodes so that guests miss them for as short as can be: the new node makes the router
 * while the old one still serves, then the others are told. A process that dies in between leaves a move that upkeep ends
 * within a minute.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import type { NetworkOnNode, NetworkOnNodes } from '#libs/kinds/network';
import type { AdminAudit, Context } from './context.js';
import { actInTenant } from './jobs.js';

const LOOK_MS = 200;
/** So long may a node take to make a router, and so long may it fail at it. */
const MAKE_MS = 30_000;
const FAILING_MS = 5_000;

export interface RouterMove {
  tenantId: string;
  /** The network's id or name. */
  network: string;
  to: { id: string; name: string };
  /** False: all nodes are told at once, and nobody waits. */
  wait: boolean;
}

export interface MovedRouter extends NetworkOnNodes {
  from: string | null;
  to: string;
  /** False: it was there. */
  changed: boolean;
}

/** Throws RhyzomeError as `orderRouter` does; `conflict` where the new node does not make it: then it stays where it was. */
export async function moveRouter(context: Context, db: Database, move: RouterMove): Promise<MovedRouter> {
  const { orderRouter, refreshNetworks } = await import('#libs/kinds/network');
  const { tenantId, wait } = move;
  const order = (to: RouterMove['to'], begin: boolean) =>
    context.changeOn(db, async ({ tx, audit }) => {
      await actInTenant(tx, tenantId);
      const ordered = await orderRouter(tx, tenantId, move.network, to, begin);
      if (ordered.isChange) await audit(auditOf(ordered.network, ordered.from, ordered.to));
      return ordered;
    });
  const { network, from, to, isChange } = await order(move.to, wait);
  const done = { from, to, changed: isChange };
  if (!wait || !isChange) return { ...network, ...done };
  const made = await settled(db, network, ({ id }) => id === move.to.id);
  const [missing] = made.late;
  if (missing) {
    const back = network.nodes.find(({ name }) => name === from);
    if (back) await order(back, false);
    const why = missing.failure ?? `it has not said so within ${MAKE_MS / 1000} s`;
    throw new RhyzomeError('conflict', `Node ${missing.name} does not make the router of ${network.name}: ${why}`);
  }
  await db.operatorTransaction(async (tx) => {
    await actInTenant(tx, tenantId);
    await refreshNetworks(tx, tenantId, [network.id]);
  });
  const { now, late } = await settled(db, network, ({ state }) => state !== 'unreachable' && state !== 'gone');
  for (const { name, failure } of late) {
    context.warn(
      `node ${name} has not yet done its part for ${network.name} (${failure ?? 'no word yet'}), and goes on trying`,
    );
  }
  return { ...now, ...done };
}

/** Until these of its nodes have made what they are told, or the time is up; gives those that have not. */
async function settled(
  db: Database,
  { tenant, id }: NetworkOnNodes,
  counts: (node: NetworkOnNode) => boolean,
): Promise<{ now: NetworkOnNodes; late: NetworkOnNode[] }> {
  const { networkOnNodes } = await import('#libs/kinds/network');
  for (const began = Date.now(); ; await sleep(LOOK_MS)) {
    const now = await db.operatorTransaction(async (tx) => {
      await actInTenant(tx, tenant);
      return networkOnNodes(tx, tenant, id);
    });
    const late = now.nodes.filter((node) => counts(node) && !node.isCurrent);
    const limitMs = late.every(({ failure }) => failure !== null) ? FAILING_MS : MAKE_MS;
    if (late.length === 0 || Date.now() > began + limitMs) return { now, late };
  }
}

function auditOf({ tenant, id, name }: NetworkOnNodes, from: string | null, to: string): AdminAudit {
  const what = { tenantId: tenant, kind: 'network', resourceId: id, resourceName: name };
  return { ...what, action: 'network.move-router', details: { from, to } };
}

export interface MovableRouter {
  tenantId: string;
  network: string;
  name: string;
  /** Another node that is up and has the network. */
  to: { id: string; name: string };
}

/** The networks whose router a node has and another of their nodes can have. */
export async function routersToMove(tx: Tx, nodeId: string): Promise<MovableRouter[]> {
  const result = await sql<MovableRouter>`
    select distinct on (k.tenant_id, k.id) k.tenant_id as "tenantId", k.id as network, k.resource_name as name, json_build_object('id', n.id, 'name', n.name) as to
    from network k
    join placement p on p.tenant_id = k.tenant_id and p.resource_id = k.id and p.present and p.node_id <> ${nodeId}
    join node n on n.id = p.node_id
    where k.router_node_id = ${nodeId} and node_spans(n, k.mtu) and node_state(n) = 'up'
    order by k.tenant_id, k.id, p.created_at, n.id`.execute(tx);
  return result.rows;
}
