/**
 * Desired and observed state of resources on nodes, for the kinds that live there. Writing desired state is what tells a
 * node: the replica that holds its stream is woken after the commit.
 */

import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import { type Tx, wakeAfterCommit } from '#libs/db';

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
}

/** What should exist on a node from now on. Unchanged desire is no change unless `again`. */
export async function desire(
  tx: Tx,
  who: Who,
  nodeId: string,
  desired: { generation: number; spec: object; again?: boolean },
): Promise<void> {
  const spec = JSON.stringify(desired.spec);
  wakeAfterCommit('rhyzome_node', nodeId);
  await sql`
    insert into placement as p (tenant_id, resource_id, node_id, kind, generation, present, spec)
    values (${who.tenantId}, ${who.id}, ${nodeId}, ${who.kind}, ${desired.generation}, true, ${spec}::jsonb)
    on conflict (tenant_id, resource_id, node_id) do update set
      present = true, spec = excluded.spec, generation = excluded.generation, revision = nextval('placement_revision'),
      phase = 'progressing', failure = null
    where not p.present or p.spec is distinct from excluded.spec or p.generation <> excluded.generation
      or ${desired.again ?? false}`.execute(tx);
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
      node_connected(n) as "isConnected"
    from placement p join node n on n.id = p.node_id
    where p.tenant_id = ${who.tenantId} and p.resource_id = ${who.id} order by p.node_id`.execute(tx);
  return result.rows;
}

/**
 * Whether every node has made what is desired; Waiting says what is still open. Throws RhyzomeError `job_failed` when a
 * node gave up.
 */
export async function probeReady(tx: Tx, who: Pick<Who, 'tenantId' | 'id'>): Promise<PlacementState[] | Waiting> {
  const placements = (await placementsOf(tx, who)).filter((placement) => placement.isPresent);
  for (const placement of placements) {
    if (placement.isCurrent && placement.phase === 'ready') continue;
    if (placement.isCurrent && placement.phase === 'failed') throw failureOf(placement);
    return waitingFor(placement, who.id);
  }
  return placements;
}

/** Whether no node has it any more. */
export async function probeAbsent(tx: Tx, who: Pick<Who, 'tenantId' | 'id'>): Promise<true | Waiting> {
  const left = (await placementsOf(tx, who)).find((placement) => !placement.isPresent);
  if (!left) return true;
  return waitingFor(left, who.id);
}

function waitingFor({ nodeName, isConnected, failure }: PlacementState, id: string): Waiting {
  if (!isConnected) return new Waiting(`Node ${nodeName} is away; it goes on when it is back.`, true, id);
  if (failure) return new Waiting(`Node ${nodeName} tries again: ${failure.message}`, false, id);
  return new Waiting(`Node ${nodeName} is at work.`, false, id);
}

function failureOf(placement: PlacementState): RhyzomeError {
  const failure = placement.failure ?? { code: 'unknown', message: 'it did not say why' };
  return new RhyzomeError('job_failed', `Node ${placement.nodeName}: ${failure.message}`, {
    extensions: { reason: failure.code, node: placement.nodeName },
  });
}
