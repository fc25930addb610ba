/** Service accounts as rows: what other kinds read of them. */

import { sql } from 'kysely';
import { type Actor, isAllowed } from '#libs/auth';
import { isUuid, type ResourceCore, type Tags } from '#libs/core';
import type { RowScope } from '#libs/resources';

/** The service account of an id or a name, where the scope's actor may read it. */
export async function findServiceaccount(scope: RowScope, reference: string): Promise<ResourceCore | undefined> {
  const which = isUuid(reference) ? sql`r.id = ${reference}` : sql`r.name = ${reference}`;
  const [row] = await scope.rows(
    sql<{ id: string; name: string; tags: Tags; created_by: string }>`
      select r.id, r.name, r.tags, r.created_by from resource r
      where r.tenant_id = ${scope.tenantId} and r.kind = 'serviceaccount' and ${which} and r.state <> 'deleting'`.compile(
      scope.builder,
    ),
  );
  if (!row) return undefined;
  const { id, name, tags, created_by: createdBy } = row;
  const core = { tenantId: scope.tenantId, kind: 'serviceaccount', id, name, tags, createdBy };
  return isReadable(scope.actor, core) ? core : undefined;
}

function isReadable(actor: Actor | undefined, core: ResourceCore): boolean {
  return actor === undefined || isAllowed(actor, 'read', core);
}
