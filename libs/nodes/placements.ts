/**
 * Desired and observed state of resources on nodes, for the kinds that live there. Writing desired state is what tells a
 * node: the replica that holds its stream is woken after the commit.
 */

import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import { type Tx, wakeAfterCommit } from '#libs/db';
import { entomb } from './tombstones.js';

type Who = Pick<ResourceCore, 'tenantId' | 'id' | 'kind'>;

export interface PlacementState {
  nodeId: string;
  nodeName: string;
  isPresent: boolean;
  /** The node has reached what is desired now. */
  isCurrent: boolean;
  phase: 'progressing' | 'ready' | 'absent' | 'failed';
  status: Record<string, unknown> | null;
  failure: { code: string; message: string } | null;
  /** The node's stream is up. */
  isConnected: boolean;
  /** The node is fenced: nothing runs there, and nothing is heard of it. */
  isGone: boolean;
  /**
   * The node is gone, or has been away for as long as removals wait for it; or an administrator's word ended one of the
   * tenant's since it went away.
   */
  isGivenUp: boolean;
  /** Its removal has ended without the node. */
  isTombstone: boolean;
}

/** Which nodes are not waited for: those that are gone, or also those that are given up, as at a removal. */
export type Without = 'gone' | 'given up';

export interface Desired {
  generation: number;
  spec: object;
  /** Told anew also where nothing has changed. */
  again?: boolean;
}

/** Characters of specs in one statement. */
const SPECS_AT_ONCE = 8 * 1024 * 1024;

/** What should exist on a node from now on. Unchanged desire is no change unless `again`. */
export async function desire(tx: Tx, who: Who, nodeId: string, desired: Desired): Promise<void> {
  await desireOnAll(tx, who, new Map([[nodeId, desired]]));
}

/** The same of several nodes, by their ids: one statement, unless the specs are very large. */
export async function desireOnAll(tx: Tx, who: Who, desired: ReadonlyMap<string, Desired>): Promise<void> {
  let batch: { node: string; generation: number; again: boolean; spec: string }[] = [];
  let characters = 0;
  for (const [node, { generation, spec, again = false }] of desired) {
    const text = JSON.stringify(spec);
    if (batch.length > 0 && characters + text.length > SPECS_AT_ONCE) {
      await write(tx, who, batch);
      [batch, characters] = [[], 0];
    }
    batch.push({ node, generation, again, spec: text });
    characters += text.length;
  }
  if (batch.length > 0) await write(tx, who, batch);
}

async function write(
  tx: Tx,
  who: Who,
  batch: readonly { node: string; generation: number; again: boolean; spec: string }[],
): Promise<void> {
  const column = <Key extends keyof (typeof batch)[number]>(key: Key) => batch.map((row) => row[key]);
  const changed = await sql<{ node_id: string }>`
    with told as materialized (
      select * from unnest(${column('node')}::uuid[], ${column('generation')}::bigint[], ${column('again')}::boolean[],
        ${column('spec')}::text[]) as t (node_id, generation, again, spec))
    insert into placement as p (tenant_id, resource_id, node_id, kind, generation, present, spec)
    select ${who.tenantId}, ${who.id}, node_id, ${who.kind}, generation, true, spec::jsonb from told
    on conflict (tenant_id, resource_id, node_id) do update set
      present = true, spec = excluded.spec, generation = excluded.generation, revision = nextval('placement_revision'),
      phase = 'progressing', failure = null, tombstoned_at = null, tombstone_name = null
    where not p.present or p.spec is distinct from excluded.spec or p.generation <> excluded.generation
      or (select t.again from told t where t.node_id = p.node_id)
    returning p.node_id`.execute(tx);
  for (const { node_id } of changed.rows) wakeAfterCommit('rhyzome_node', node_id);
}

/** What must no longer exist on a node, or on any. */
export async function withdraw(tx: Tx, who: Pick<Who, 'tenantId' | 'id'>, nodeId?: string): Promise<void> {
  const told = await tx
    .updateTable('placement')
    .set({
      present: false,
      spec: null,
      revision: sql<number>`nextval('placement_revision')`,
      phase: 'progressing',
      failure: null,
    })
    .where('tenant_id', '=', who.tenantId)
    .where('resource_id', '=', who.id)
    .where('present', '=', true)
    .$if(nodeId !== undefined, (qb) => qb.where('node_id', '=', nodeId!))
    .returning('node_id')
    .execute();
  for (const { node_id } of told) wakeAfterCommit('rhyzome_node', node_id);
}

/** Where a resource stands on nodes. */
export async function placementsOf(tx: Tx, who: Pick<Who, 'tenantId' | 'id'>): Promise<PlacementState[]> {
  const result = await sql<PlacementState>`
    select p.node_id as "nodeId", n.name as "nodeName", p.present as "isPresent",
      p.observed_revision = p.revision as "isCurrent", p.phase, p.status, p.failure,
      node_connected(n) as "isConnected", n.gone_at is not null as "isGone",
      n.gone_at is not null
        or coalesce(node_away_since(n) <= now() - (select tombstone_after from installation), false)
        or exists (select from placement t where t.node_id = n.id and t.tombstoned_at >= node_away_since(n)) as "isGivenUp",
      p.tombstoned_at is not null as "isTombstone"
    from placement p join node n on n.id = p.node_id
    where p.tenant_id = ${who.tenantId} and p.resource_id = ${who.id} order by p.node_id`.execute(tx);
  return result.rows;
}

/**
 * Whether every node has made what is desired; Waiting says what is still open. `without`: for what stands on several
 * nodes. Throws RhyzomeError `job_failed` when a node gave up, or is gone.
 */
export async function probeReady(
  tx: Tx,
  who: Pick<Who, 'tenantId' | 'id'>,
  without?: Without,
): Promise<PlacementState[] | Waiting> {
  const placements = (await placementsOf(tx, who)).filter((placement) => placement.isPresent);
  for (const placement of placements) {
    if (placement.isCurrent && placement.phase === 'ready') continue;
    if (without && (placement.isGone || (without === 'given up' && placement.isGivenUp))) continue;
    if (placement.isGone) throw goneFailure(placement);
    if (placement.isCurrent && placement.phase === 'failed') throw failureOf(placement);
    return waitingFor(placement, who.id);
  }
  return placements;
}

/** Whether no node has it any more; nodes that are given up are waited for no longer (tombstones.ts). */
export async function probeAbsent(tx: Tx, who: Pick<Who, 'tenantId' | 'id'>): Promise<true | Waiting> {
  const left = (await placementsOf(tx, who)).filter(({ isPresent, isTombstone }) => !isPresent && !isTombstone);
  const givenUp = left.filter(({ isGivenUp }) => isGivenUp).map(({ nodeId }) => nodeId);
  if (givenUp.length > 0) await entomb(tx, who, givenUp);
  const open = left.find(({ isGivenUp }) => !isGivenUp);
  return open ? waitingFor(open, who.id) : true;
}

function waitingFor({ nodeName, isConnected, failure }: PlacementState, id: string): Waiting {
  if (!isConnected) return new Waiting(`Node ${nodeName} is away; it goes on when it is back.`, true, id);
  if (failure) return new Waiting(`Node ${nodeName} tries again: ${failure.message}`, false, id);
  return new Waiting(`Node ${nodeName} is at work.`, false, id);
}

function goneFailure({ nodeName }: PlacementState): RhyzomeError {
  return new RhyzomeError('job_failed', `Node ${nodeName} is gone; nothing is made there until it is back.`, {
    extensions: { reason: 'node_gone', node: nodeName },
  });
}

function failureOf(placement: PlacementState): RhyzomeError {
  const failure = placement.failure ?? { code: 'unknown', message: 'it did not say why' };
  return new RhyzomeError('job_failed', `Node ${placement.nodeName}: ${failure.message}`, {
    extensions: { reason: failure.code, node: placement.nodeName },
  });
}
