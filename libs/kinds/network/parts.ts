/**
 * How other kinds take part in a network's router: a row each in network_part, which the network's spec is made of, and an
 * edge to the network for as long as the resource may be on its nodes. In the caller's transaction.
 */
import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import { probeReady, type Without } from '#libs/nodes';
import { addEdges, type Edge, type Job } from '#libs/resources';
import { lockNetworks, refreshNetworks } from './on-nodes.js';
import type { PartSpec } from './part-specs.js';

type Who = Pick<ResourceCore, 'tenantId' | 'id'>;

/** Relation of the edge to the network. */
export const PART_RELATION = 'is part of';

export interface NetworkPart {
  networkId: string;
  /** Ascending; ties by the resource's name. Default 0. */
  position?: number;
  spec: PartSpec;
}

/** Makes the resource this part of a network, and of no other, or (null) of none, and tells the nodes. */
export async function setPart(tx: Tx, who: Who, part: NetworkPart | null): Promise<void> {
  const { tenantId, id } = who;
  const before = await tx
    .selectFrom('network_part')
    .select('network_id')
    .where('tenant_id', '=', tenantId)
    .where('resource_id', '=', id)
    .execute();
  const networks = [...before.map(({ network_id }) => network_id), ...(part ? [part.networkId] : [])];
  // Before the row is written: a network that is being placed right now either sees it or is seen here.
  await lockNetworks(tx, tenantId, networks);
  if (part) {
    const { kind, ...spec } = part.spec;
    const columns = {
      network_id: part.networkId,
      kind,
      position: part.position ?? 0,
      spec: JSON.stringify(spec),
    };
    await tx
      .insertInto('network_part')
      .values({ tenant_id: tenantId, resource_id: id, ...columns })
      .onConflict((oc) => oc.columns(['tenant_id', 'resource_id']).doUpdateSet(columns))
      .execute();
  } else {
    await tx.deleteFrom('network_part').where('tenant_id', '=', tenantId).where('resource_id', '=', id).execute();
  }
  await refreshNetworks(tx, tenantId, networks);
}

/** Whether all nodes of the networks that it is, was or becomes part of are as desired. Throws `job_failed`. */
async function probePart(tx: Tx, who: Who, without: Without = 'gone'): Promise<number | Waiting> {
  const edges = await tx
    .selectFrom('dependency')
    .select('target_id')
    .where('tenant_id', '=', who.tenantId)
    .where('resource_id', '=', who.id)
    .where('relation', '=', PART_RELATION)
    .orderBy('target_id')
    .execute();
  let nodes = 0;
  for (const { target_id: id } of edges) {
    const answer = await probeReady(tx, { tenantId: who.tenantId, id }, without);
    if (answer instanceof Waiting) return answer;
    nodes += answer.length;
  }
  return nodes;
}

/** As the undo of a part: a node that cannot follow now is waited for, since what it still has may be somebody else's next. */
async function probeUndone(tx: Tx, who: Who): Promise<true | Waiting> {
  try {
    const answer = await probePart(tx, who, 'given up');
    return answer instanceof Waiting ? answer : true;
  } catch (error) {
    if (error instanceof RhyzomeError && error.code === 'job_failed') return new Waiting(error.message, true);
    throw error;
  }
}

/** A create's job: `part` says what it is, by the rows of the transaction. */
export async function addPart(job: Job<Tx>, who: Who, part: (tx: Tx) => Promise<NetworkPart | null>): Promise<void> {
  job.plan(2);
  await job.ask('tell the network', {
    act: async (tx) => setPart(tx, who, await part(tx)),
    undo: (tx) => setPart(tx, who, null),
    undone: (tx) => probeUndone(tx, who),
    until: { name: 'nodes have it', probe: (tx) => probePart(tx, who) },
  });
}

/** An update's job. Its undo is the settling transaction, in which `claim` calls setPart with what was before. */
export async function changePart(job: Job<Tx>, who: Who, part: (tx: Tx) => Promise<NetworkPart | null>): Promise<void> {
  job.plan(2);
  await job.ask('tell the network', {
    act: async (tx) => setPart(tx, who, await part(tx)),
    until: { name: 'nodes have it', probe: (tx) => probePart(tx, who) },
  });
}

/** A removal's job. Not `ask`: it is gone where it can be, also where another node of the network fails, which fails the job. */
export async function takePart(job: Job<Tx>, who: Who): Promise<void> {
  job.plan(2);
  await job.step('take it from the network', { act: (tx) => setPart(tx, who, null), cancellable: false });
  await job.wait('nodes are rid of it', (tx) => probePart(tx, who, 'given up'));
}

/**
 * Adds the edges of a claim; those that it no longer needs stay until `keepEdges`, since the update may be taken back.
 * Throws RhyzomeError `conflict` where a target is being removed.
 */
export async function holdEdges(tx: Tx, who: Who, edges: readonly Edge[]): Promise<void> {
  await addEdges(tx, who, edges, (id) => new RhyzomeError('conflict', `${id} is being removed; take another.`));
}

/**
 * After the edge is held: refuses a part where the network has `most` others of its kind, counted under the network's lock,
 * so that of two that race for the last place exactly one gets it. Throws RhyzomeError `limit_reached`.
 */
export async function refuseFull(tx: Tx, who: Who & { kind: string }, networkId: string, most: number): Promise<void> {
  await lockNetworks(tx, who.tenantId, [networkId]);
  const result = await sql<{ parts: number }>`
    select count(*)::int as parts from dependency d
    join resource r on r.tenant_id = d.tenant_id and r.id = d.resource_id and r.kind = ${who.kind}
    where d.target_tenant_id = ${who.tenantId} and d.target_id = ${networkId} and d.relation = ${PART_RELATION}`.execute(
    tx,
  );
  if (result.rows[0]!.parts <= most) return;
  throw new RhyzomeError('limit_reached', `The network has ${most} of kind ${who.kind}, which is the limit.`);
}

/** In `settled`: drops all edges of a resource but these. */
export async function keepEdges(tx: Tx, who: Who, edges: readonly Edge[]): Promise<void> {
  const kept = edges.map(({ targetId, relation }) => `${targetId} ${relation}`);
  await sql`
    delete from dependency where tenant_id = ${who.tenantId} and resource_id = ${who.id}
      and target_id || ' ' || relation <> all (${kept}::text[])`.execute(tx);
}
