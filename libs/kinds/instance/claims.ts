/** What an instance takes in its request's transaction: addresses, and a node with room for it. */

import { sql } from 'kysely';
import type { ResourceCore } from '#libs/core';
import { parseSelector, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { claimLease, randomMac } from '#libs/kinds/network';
import { type Demand, lockPlacement, type NodeChoice, reserveNode } from '#libs/nodes';
import { selectorCondition } from '#libs/resources';
import type { NetworkReference } from './references.js';

/** One lease an interface. Networks are locked in the order of their ids, so that two instances cannot block each other. */
export async function claimAddresses(
  tx: Tx,
  core: ResourceCore,
  interfaces: readonly { network: string; ip?: string }[],
  networks: ReadonlyMap<string, NetworkReference>,
): Promise<void> {
  const wanted = interfaces.map(({ network, ip }, ordinal) => ({ networkId: networks.get(network)!.id, ip, ordinal }));
  // Within a network, the asked-for addresses go first, so that “the next free one” is none of them.
  wanted.sort((a, b) =>
    a.networkId < b.networkId ? -1 : a.networkId > b.networkId ? 1 : Number(!a.ip) - Number(!b.ip),
  );
  for (const { networkId, ip, ordinal } of wanted) {
    await claimLease(tx, {
      tenantId: core.tenantId,
      networkId,
      ip,
      mac: randomMac(),
      hostname: core.name,
      instance: { id: core.id, ordinal },
      pointer: `/interfaces/${ordinal}/ip`,
    });
  }
}

/** Where to place a machine, by tags of the tenant's other machines. */
export interface Placement {
  /** Only on nodes that carry one of these, as soon as there is one. */
  affinity?: string;
  /** On no node that carries one of these. */
  antiAffinity?: string;
}

interface Wishes {
  /** That it takes; they lie on their nodes already. */
  disks: readonly { nodeId: string | null }[];
  placement?: Placement;
}

/** Reserves room and writes the node into the instance's row; gives the node's id. Throws RhyzomeError `no_capacity`, `conflict`. */
export async function claimNode(tx: Tx, core: ResourceCore, demand: Demand, wishes: Wishes): Promise<string> {
  const choice = await chooseFrom(tx, core, wishes);
  const nodeId = await reserveNode(tx, core, demand, choice);
  await tx
    .updateTable('instance')
    .set({ node_id: nodeId })
    .where('tenant_id', '=', core.tenantId)
    .where('id', '=', core.id)
    .execute();
  return nodeId;
}

async function chooseFrom(tx: Tx, core: ResourceCore, { disks, placement }: Wishes): Promise<NodeChoice> {
  const nodes = [...new Set(disks.map(({ nodeId }) => nodeId!))];
  if (nodes.length > 1) {
    throw new RhyzomeError('conflict', 'The disks are on different nodes, so no machine can have all of them.');
  }
  const choice = await placementChoice(tx, core, placement);
  if (nodes.length === 0) return choice;
  return { ...choice, only: choice.only ? choice.only.filter((id) => nodes.includes(id)) : nodes };
}

/** What affinities leave of the nodes. */
export async function placementChoice(tx: Tx, core: ResourceCore, placement?: Placement): Promise<NodeChoice> {
  if (!placement?.affinity && !placement?.antiAffinity) return {};
  await lockPlacement(tx);
  const choice: NodeChoice = {};
  if (placement.antiAffinity) choice.never = await nodesOf(tx, core, placement.antiAffinity);
  const near = placement.affinity ? await nodesOf(tx, core, placement.affinity) : [];
  return near.length === 0 ? choice : { ...choice, only: near };
}

/** The nodes of the tenant's other machines that a selector finds. */
async function nodesOf(tx: Tx, core: ResourceCore, selector: string): Promise<string[]> {
  const conditions = parseSelector(selector).map(selectorCondition);
  const result = await sql<{ id: string }>`
    select distinct k.node_id as id from resource r join instance k on k.tenant_id = r.tenant_id and k.id = r.id
    where r.tenant_id = ${core.tenantId} and r.kind = 'instance' and r.id <> ${core.id} and k.node_id is not null
      and ${sql.join(conditions, sql` and `)}`.execute(tx);
  return result.rows.map(({ id }) => id);
}
