/** Room on nodes: taken in the request's own transaction, so that it is never promised twice. */
import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';

/** How many times a node's processors may be promised. */
const VCPU_OVERCOMMIT = 8;

export interface Demand {
  vcpus: number;
  memoryMiB: number;
  diskGiB: number;
}

export interface NodeChoice {
  /** Only one of these nodes; undefined: any. */
  only?: readonly string[];
  /** None of these. */
  never?: readonly string[];
  /** It lies there already: it may grow there also while the node takes nothing new. */
  stays?: boolean;
}

type Who = Pick<ResourceCore, 'tenantId' | 'id' | 'kind'>;

/** Reserves room on a node, in place of what the resource had; gives the node's id. Throws RhyzomeError `no_capacity`. */
export async function reserveNode(tx: Tx, who: Who, demand: Demand, choice: NodeChoice = {}): Promise<string> {
  const { vcpus, memoryMiB, diskGiB } = demand;
  const { only, never, stays = false } = choice;
  const reserved = await sql<{ node: string | null }>`
    select reserve_node(${who.id}, ${who.kind}, ${vcpus}, ${memoryMiB}, ${diskGiB}, ${VCPU_OVERCOMMIT},
      ${only ? [...only] : null}::uuid[], ${never ? [...never] : null}::uuid[], ${stays}) as node`.execute(tx);
  const node = reserved.rows[0]?.node;
  if (!node) throw await noCapacity(tx, who.kind, demand, only !== undefined || never !== undefined);
  return node;
}

async function noCapacity(tx: Tx, kind: string, demand: Demand, isNarrowed: boolean): Promise<RhyzomeError> {
  const result = await sql<{ nodes: number; vcpus: number; memory_mib: number; disk_gib: number }>`
    select * from node_headroom(${kind}, ${VCPU_OVERCOMMIT})`.execute(tx);
  const free = result.rows[0]!;
  if (free.nodes === 0) {
    return new RhyzomeError('no_capacity', 'No node takes new machines now.', { extensions: { nodes: 0 } });
  }
  const wouldFit = { vcpus: free.vcpus, memoryMiB: free.memory_mib, diskGiB: free.disk_gib };
  const short = (Object.keys(wouldFit) as (keyof Demand)[]).filter((key) => demand[key] > wouldFit[key]);
  const where = isNarrowed ? 'where it has to be' : 'on one node';
  return new RhyzomeError(
    'no_capacity',
    `No node has the room: ${short.join(', ') || `not all of it ${where}`} is short. ` +
      `At most ${wouldFit.vcpus} vcpus, ${wouldFit.memoryMiB} MiB and ${wouldFit.diskGiB} GiB would fit.`,
    { extensions: { short, wouldFit } },
  );
}

/** Gives a part of a reservation that is a disk's to the disk itself; both were found room for together. */
export async function splitReservation(tx: Tx, from: string, to: string, diskGiB: number): Promise<void> {
  await sql`select split_reservation(${from}, ${to}, ${diskGiB})`.execute(tx);
}

/** Gives back what is more than this. */
export async function shrinkReservation(tx: Tx, id: string, demand: Demand): Promise<void> {
  await sql`select shrink_reservation(${id}, ${demand.vcpus}, ${demand.memoryMiB}, ${demand.diskGiB})`.execute(tx);
}

/** Gives back all of it, but what a node still has that was not asked: that is given back when it has removed it. */
export async function releaseReservation(tx: Tx, who: Pick<Who, 'tenantId' | 'id'>): Promise<void> {
  await sql`
    delete from reservation v where v.tenant_id = ${who.tenantId} and v.resource_id = ${who.id} and not exists (
      select from placement p where p.tenant_id = v.tenant_id and p.resource_id = v.resource_id and p.node_id = v.node_id
        and p.tombstoned_at is not null)`.execute(tx);
}

/** Makes placements wait for each other from here on, so that a choice by what is placed where still holds when it is made. */
export async function lockPlacement(tx: Tx): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended('rhyzome.placement', 0))`.execute(tx);
}
