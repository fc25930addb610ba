/** What an instance takes in its request's transaction: addresses and room on a node. */

import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { claimLease, randomMac } from '#libs/kinds/network';
import type { NetworkReference } from './references.js';

/** How many times a node's processors may be promised. */
const VCPU_OVERCOMMIT = 8;

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

export interface Demand {
  vcpus: number;
  memoryMiB: number;
  diskGiB: number;
}

/** Reserves room and writes the node into the instance's row. Throws RhyzomeError `no_capacity` with what would fit. */
export async function claimNode(tx: Tx, core: ResourceCore, demand: Demand): Promise<void> {
  const { vcpus, memoryMiB, diskGiB } = demand;
  const reserved = await sql<{ node: string | null }>`
    select reserve_node(${core.id}, ${core.kind}, ${vcpus}, ${memoryMiB}, ${diskGiB}, ${VCPU_OVERCOMMIT}) as node`.execute(
    tx,
  );
  const node = reserved.rows[0]?.node;
  if (!node) throw await noCapacity(tx, core.kind, demand);
  await tx
    .updateTable('instance')
    .set({ node_id: node })
    .where('tenant_id', '=', core.tenantId)
    .where('id', '=', core.id)
    .execute();
}

async function noCapacity(tx: Tx, kind: string, demand: Demand): Promise<RhyzomeError> {
  const result = await sql<{ nodes: number; vcpus: number; memory_mib: number; disk_gib: number }>`
    select * from node_headroom(${kind}, ${VCPU_OVERCOMMIT})`.execute(tx);
  const free = result.rows[0]!;
  if (free.nodes === 0) {
    return new RhyzomeError('no_capacity', 'No node takes new machines now.', { extensions: { nodes: 0 } });
  }
  const wouldFit = { vcpus: free.vcpus, memoryMiB: free.memory_mib, diskGiB: free.disk_gib };
  const short = (Object.keys(wouldFit) as (keyof Demand)[]).filter((key) => demand[key] > wouldFit[key]);
  return new RhyzomeError(
    'no_capacity',
    `No node has the room: ${short.join(', ') || 'not all of it on one node'} is short. ` +
      `At most ${wouldFit.vcpus} vcpus, ${wouldFit.memoryMiB} MiB and ${wouldFit.diskGiB} GiB would fit.`,
    { extensions: { short, wouldFit } },
  );
}

export async function releaseNode(tx: Tx, core: Pick<ResourceCore, 'tenantId' | 'id'>): Promise<void> {
  await tx
    .deleteFrom('reservation')
    .where('tenant_id', '=', core.tenantId)
    .where('resource_id', '=', core.id)
    .execute();
}
