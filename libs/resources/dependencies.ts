/** Edges between resources: what a resource needs, and what stands in the way of removing one. */

import { sql } from 'kysely';
import { type Blocker, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';

export interface Edge {
  targetTenantId: string;
  targetId: string;
  /** Read from the target: an instance is `attached` to its network. */
  relation: string;
}

/**
 * Writes the edges of a resource. The foreign key takes a lock on each target that a removal of it excludes; a target
 * that is being removed already is as good as gone: `gone` says how to tell.
 */
export async function addEdges(
  tx: Tx,
  core: Pick<ResourceCore, 'tenantId' | 'id'>,
  edges: readonly Edge[],
  gone: (targetId: string) => RhyzomeError,
): Promise<void> {
  if (edges.length === 0) return;
  await tx
    .insertInto('dependency')
    .values(
      edges.map((edge) => ({
        tenant_id: core.tenantId,
        resource_id: core.id,
        target_tenant_id: edge.targetTenantId,
        target_id: edge.targetId,
        relation: edge.relation,
      })),
    )
    .onConflict((oc) => oc.doNothing())
    .execute();
  const usable = await tx
    .selectFrom('resource')
    .select('id')
    .where('tenant_id', 'in', [...new Set(edges.map((edge) => edge.targetTenantId))])
    .where(
      'id',
      'in',
      edges.map((edge) => edge.targetId),
    )
    .where('state', '!=', 'deleting')
    .execute();
  const missing = edges.find((edge) => !usable.some((row) => row.id === edge.targetId));
  if (missing) throw gone(missing.targetId);
}

/** Drops the edges of a resource. */
export async function dropEdges(tx: Tx, core: Pick<ResourceCore, 'tenantId' | 'id'>): Promise<void> {
  await tx.deleteFrom('dependency').where('tenant_id', '=', core.tenantId).where('resource_id', '=', core.id).execute();
}

/** More than a refusal names: some of them may not be shown to whoever asks. */
const MAX_BLOCKERS = 200;

/** The tenant's own resources that depend on this one, at most 200. The caller holds the target's row lock. */
export async function blockersOf(tx: Tx, core: Pick<ResourceCore, 'tenantId' | 'id'>): Promise<Blocker[]> {
  const result = await sql<Blocker>`
    select r.kind, r.id, r.name, d.relation
    from dependency d join resource r on r.tenant_id = d.tenant_id and r.id = d.resource_id
    where d.target_tenant_id = ${core.tenantId} and d.target_id = ${core.id} order by r.name limit ${MAX_BLOCKERS}`.execute(
    tx,
  );
  return result.rows;
}
