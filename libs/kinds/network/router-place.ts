/**
 * Where a network's router is, and where an administrator may put it: on a node that has the network, reaches the others,
 * and is heard. Its other nodes are told in the same transaction.
 */
import { sql } from 'kysely';
import { isUuid, printable, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import type { NodeState } from '#libs/nodes';
import { lockNetworks, moveRouter } from './on-nodes.js';

export interface NetworkOnNode {
  id: string;
  name: string;
  state: NodeState;
  hasRouter: boolean;
  /** It is one with the network's other nodes. */
  spans: boolean;
  /** It has made what it is told of the network. */
  isCurrent: boolean;
  /** Why it has not; null: nothing is wrong. */
  failure: string | null;
}

export interface NetworkOnNodes {
  id: string;
  name: string;
  tenant: string;
  /** In the order in which the network came to them. */
  nodes: NetworkOnNode[];
}

/** The caller acts in the tenant. Throws RhyzomeError `not_found`. */
export async function networkOnNodes(tx: Tx, tenantId: string, idOrName: string): Promise<NetworkOnNodes> {
  const which = isUuid(idOrName) ? sql`r.id = ${idOrName}` : sql`r.name = ${idOrName}`;
  const found = await sql<{ id: string; name: string }>`
    select r.id, r.name from resource r where r.tenant_id = ${tenantId} and r.kind = 'network' and ${which}`.execute(
    tx,
  );
  const [network] = found.rows;
  if (!network) {
    const message = `Tenant ${printable(tenantId)} has no network “${printable(idOrName)}”.`;
    throw new RhyzomeError('not_found', message);
  }
  const nodes = await sql<NetworkOnNode>`
    select n.id, n.name, node_state(n) as state, k.router_node_id is not distinct from n.id as "hasRouter",
      node_spans(n, k.mtu) as spans, p.observed_revision = p.revision and p.phase = 'ready' as "isCurrent",
      case when p.observed_revision = p.revision then p.failure ->> 'message' end as failure
    from network k
    join placement p on p.tenant_id = k.tenant_id and p.resource_id = k.id and p.present
    join node n on n.id = p.node_id
    where k.tenant_id = ${tenantId} and k.id = ${network.id} order by p.created_at, n.id`.execute(tx);
  return { ...network, tenant: tenantId, nodes: nodes.rows };
}

export interface OrderedRouter {
  network: NetworkOnNodes;
  /** The node that had it, and the one that is to. */
  from: string | null;
  to: string;
  /** False: it was there. */
  isChange: boolean;
}

/** `begin`: as of moveRouter. Throws RhyzomeError `not_found`, `conflict` with what stands against it. */
export async function orderRouter(
  tx: Tx,
  tenantId: string,
  idOrName: string,
  to: { id: string; name: string },
  begin: boolean,
): Promise<OrderedRouter> {
  const { id } = await networkOnNodes(tx, tenantId, idOrName);
  await lockNetworks(tx, tenantId, [id]);
  const network = await networkOnNodes(tx, tenantId, id);
  const from = network.nodes.find(({ hasRouter }) => hasRouter);
  const target = network.nodes.find((node) => node.id === to.id);
  refuse(network, from, target, to.name);
  const isChange = target!.id !== from?.id;
  if (isChange && !(await moveRouter(tx, tenantId, id, target!.id, begin))) {
    throw new RhyzomeError(
      'conflict',
      `Node ${target!.name} cannot have the router of ${network.name} now. Try again.`,
    );
  }
  return { network: await networkOnNodes(tx, tenantId, id), from: from?.name ?? null, to: target!.name, isChange };
}

function refuse(
  { name, nodes }: NetworkOnNodes,
  from: NetworkOnNode | undefined,
  target: NetworkOnNode | undefined,
  to: string,
): void {
  const conflict = (message: string) => new RhyzomeError('conflict', message);
  if (nodes.length === 0) throw conflict(`Network ${name} is on no node: it comes to one with its first machine.`);
  if (!target) {
    const where = nodes.map((node) => node.name).join(', ');
    throw conflict(
      `Node ${printable(to)} has no machine of network ${name}, which is on ${where}. Move one there first.`,
    );
  }
  if (target === from) return;
  if (target.state !== 'up' && target.state !== 'cordoned')
    throw conflict(`Node ${target.name} is ${target.state}, and gets no routers.`);
  if (!target.spans)
    throw conflict(
      `Node ${target.name} has no underlay that carries network ${name}, so that a router there would serve that node alone.`,
    );
  if (from?.state === 'unreachable')
    throw conflict(
      `Node ${from.name}, which has the router, is unreachable and may go on with it: there would be two. Fence it ` +
        `first (\`rhyzome node fence ${from.name}\`); then the router moves by itself.`,
    );
}
