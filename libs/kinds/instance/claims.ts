/** What an instance takes in its request's transaction: addresses, and a node with room for it. */

import { type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { claimLease, randomMac } from '#libs/kinds/network';
import { type Demand, type NodeChoice, reserveNode } from '#libs/nodes';
import { choiceOf, type Placement } from './placement.js';
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
  const nodes = new Set(disks.map(({ nodeId }) => nodeId!));
  if (nodes.size > 1) {
    throw new RhyzomeError('conflict', 'The disks are on different nodes, so no machine can have all of them.');
  }
  const choice = await placementChoice(tx, core, placement);
  if (nodes.size === 0) return choice;
  return { ...choice, required: [{ name: 'disks', asks: 'where they lie', only: nodes }, ...(choice.required ?? [])] };
}

/** What its placement leaves of the nodes. */
export async function placementChoice(tx: Tx, core: ResourceCore, placement?: Placement): Promise<NodeChoice> {
  return isWish(placement) ? choiceOf(tx, core, placement) : {};
}

function isWish(placement: Placement | undefined): placement is Placement {
  return Object.values(placement ?? {}).some((wish) => wish !== undefined && wish !== null);
}
