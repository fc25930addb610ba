/**
 * Keeps what nodes know of each other true. Which nodes a network spans follows from rows that others write: where its
 * machines are placed, what nodes say of their underlay, what state they are in. A network whose nodes were told
 * otherwise is told anew, in a transaction of its own, as often as needed.
 */
import { sql } from 'kysely';
import { type Database, type Tx } from '#libs/db';
import type { Requirement } from '#libs/nodes';
import { refreshNetwork } from './on-nodes.js';

interface Which {
  /** Only networks that stand on this node. */
  nodeId?: string;
  signal?: AbortSignal;
}

export async function tellMembers(db: Database, { nodeId, signal }: Which): Promise<void> {
  const here = nodeId === undefined ? sql`` : sql`and p.node_id = ${nodeId}`;
  // First which, then what of them: what a network's members are costs a look at its placements.
  const changed = await sql<{ tenantId: string; id: string }>`
    with standing as materialized (
      select distinct p.tenant_id, p.resource_id from placement p where p.kind = 'network' and p.present ${here})
    select n.tenant_id as "tenantId", n.id from standing s
    join network n on n.tenant_id = s.tenant_id and n.id = s.resource_id
    where n.told_members is distinct from network_members(n.tenant_id, n.id, n.mtu)
    order by n.tenant_id, n.id`.execute(db.operator);
  for (const { tenantId, id } of changed.rows) {
    if (signal?.aborted) return;
    await db.tenantTransaction(tenantId, (tx) => refreshNetwork(tx, tenantId, id));
  }
}

/** A network and the nodes that its machines are or will be on; of networks without machines there is none. */
interface Spread {
  /** Its machines may be on any node that it can span. */
  isOpen: boolean;
  nodes: string[];
  /** The nodes that it cannot span. */
  beyond: string[];
}

/**
 * Where a machine can be so that its networks reach it: where none of their machines is, anywhere; else on the nodes that
 * the network spans or can span, or, where it is on a node that it cannot go beyond, there. The caller has locked the
 * networks, and chooses the node in the same transaction. `leaving`: the machine that is to go to another node, and takes
 * along a network that nobody else is on.
 */
export async function nodesWithin(
  tx: Tx,
  tenantId: string,
  networkIds: readonly string[],
  leaving?: string,
): Promise<Requirement[]> {
  const spreads = await spreadsOf(tx, tenantId, networkIds, leaving ?? null);
  return spreads.flatMap(({ isOpen, nodes, beyond }): Requirement[] => {
    const name = 'interfaces';
    if (!isOpen) return [{ name, asks: 'where their network is, which cannot span nodes', only: new Set(nodes) }];
    return beyond.length === 0 ? [] : [{ name, asks: 'where their network can reach', never: new Set(beyond) }];
  });
}

/** Without a machine that leaves, what still stands somewhere counts, too; with one, only where other machines are. */
async function spreadsOf(tx: Tx, tenantId: string, ids: readonly string[], leaving: string | null): Promise<Spread[]> {
  if (ids.length === 0) return [];
  const result = await sql<Spread>`
    with place as (
      select l.network_id, v.node_id from lease l
        join reservation v on v.tenant_id = l.tenant_id and v.resource_id = l.instance_id
        where l.tenant_id = ${tenantId} and l.network_id = any (${[...ids]}::uuid[])
          and l.instance_id is distinct from ${leaving}::uuid
      union
      select p.resource_id, p.node_id from placement p
        where p.tenant_id = ${tenantId} and p.resource_id = any (${[...ids]}::uuid[]) and p.present
          and ${leaving}::uuid is null)
    select bool_and(node_spans(n, k.mtu)) as "isOpen", array_agg(n.id) as nodes,
      array(select o.id from node o where not node_spans(o, k.mtu)) as beyond
    from network k join place on place.network_id = k.id join node n on n.id = place.node_id and node_state(n) <> 'gone'
    where k.tenant_id = ${tenantId} and k.id = any (${[...ids]}::uuid[])
    group by k.id, k.mtu`.execute(tx);
  return result.rows;
}
