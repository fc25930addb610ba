/** What an instance takes in its request's transaction: addresses, and a node with room for it. */

import { sql } from 'kysely';
import type { ResourceCore } from '#libs/core';
import { parseSelector, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { claimLease, nodesWithin, randomMac } from '#libs/kinds/network';
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
  /** Ids of those that it has an interface on. */
  networks: readonly string[];
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

/** Where its disks are, where its networks reach, and what it wishes. */
async function chooseFrom(tx: Tx, core: ResourceCore, wishes: Wishes): Promise<NodeChoice> {
  const within = await nodesWithin(tx, core.tenantId, wishes.networks);
  const wished = await chooseByWishes(tx, core, wishes);
  const never = [...(within.never ?? []), ...(wished.never ?? [])];
  const only = within.only && wished.only ? within.only.filter((id) => wished.only!.includes(id)) : undefined;
  return { ...within, ...wished, ...(only && { only }), ...(never.length > 0 && { never }) };
}

async function chooseByWishes(tx: Tx, core: ResourceCore, { disks, placement }: Wishes): Promise<NodeChoice> {
  const nodes = [...new Set(disks.map(({ nodeId }) => nodeId!))];
  if (nodes.length > 1) {
    throw new RhyzomeError('conflict', 'The disks are on different nodes, so no machine can have all of them.');
  }
  const choice: NodeChoice = nodes.length > 0 ? { only: nodes } : {};
  if (!placement?.affinity && !placement?.antiAffinity) return choice;
  await lockPlacement(tx);
  if (placement.antiAffinity) choice.never = await nodesOf(tx, core, placement.antiAffinity);
  const near = placement.affinity ? await nodesOf(tx, core, placement.affinity) : [];
  if (near.length === 0) return choice;
  return { ...choice, only: choice.only ? near.filter((id) => choice.only!.includes(id)) : near };
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
