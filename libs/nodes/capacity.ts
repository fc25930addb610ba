/** Room on nodes: taken in the request's own transaction, so that it is never promised twice. */
import { sql } from 'kysely';
import type { ResourceCore } from '#libs/core';
import type { Tx } from '#libs/db';
import { type Demand, noCapacity, type Requirement } from './no-capacity.js';

export type { Demand, Requirement };

export interface NodeChoice {
  /** Only one of these nodes; undefined: any. */
  only?: readonly string[];
  /** None of these. */
  never?: readonly string[];
  required?: readonly Requirement[];
  /** By node: what speaks against it; those with less come first. Default 0. */
  ranks?: ReadonlyMap<string, number>;
  /** It lies there already: it may grow there also while the node takes nothing new. */
  stays?: boolean;
}

type Who = Pick<ResourceCore, 'tenantId' | 'id' | 'kind'>;

/**
 * Reserves room on a node, in place of what the resource had; gives the node's id. Of several nodes it takes the one with
 * the lowest rank, then the one with the largest part of its memory free. The node's room stays locked until the transaction ends.
 * Throws RhyzomeError `no_capacity`, which says what is short.
 */
export async function reserveNode(tx: Tx, who: Who, demand: Demand, choice: NodeChoice = {}): Promise<string> {
  const { vcpus, memoryMiB, diskGiB } = demand;
  const { ranks, stays = false } = choice;
  const required = requirementsOf(choice);
  const only = intersectionOf(required.flatMap((requirement) => requirement.only ?? []));
  const never = required.flatMap((requirement) => [...(requirement.never ?? [])]);
  const reserved = await sql<{ node: string | null }>`
    select reserve_room(${who.id}, ${who.kind}, ${vcpus}, ${memoryMiB}, ${diskGiB}, ${only ?? null}::uuid[],
      ${never}::uuid[], ${ranks ? JSON.stringify(Object.fromEntries(ranks)) : null}::jsonb, ${stays}) as node`.execute(
    tx,
  );
  const node = reserved.rows[0]?.node;
  if (!node) throw await noCapacity(tx, who, demand, { required, stays });
  return node;
}

function requirementsOf({ only, never, required = [] }: NodeChoice): readonly Requirement[] {
  if (!only && !never?.length) return required;
  const place = { name: 'place', asks: 'where it has to be', only: only && new Set(only), never: new Set(never) };
  return [place, ...required];
}

function intersectionOf(sets: readonly ReadonlySet<string>[]): string[] | undefined {
  const [first, ...others] = sets;
  return first && [...first].filter((id) => others.every((set) => set.has(id)));
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

/** Makes a tenant's placements wait for each other from here on, so that a choice by where its machines are still holds when it is made. */
export async function lockPlacement(tx: Tx, tenantId: string): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`rhyzome.placement.${tenantId}`}, 0))`.execute(tx);
}
