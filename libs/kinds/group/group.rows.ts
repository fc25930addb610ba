/** Groups as rows: what other kinds read of them. */
import { sql } from 'kysely';
import { isAllowed } from '#libs/auth';
import { isUuid, type Tags } from '#libs/core';
import type { RowScope } from '#libs/resources';

export interface FoundGroup {
  id: string;
  name: string;
}

interface GroupRow extends FoundGroup {
  tags: Tags;
  created_by: string;
}

/** The groups of ids and names, by what was asked; those that the scope's actor may not read are as none. */
export async function findGroups(scope: RowScope, references: readonly string[]): Promise<Map<string, FoundGroup>> {
  if (references.length === 0) return new Map();
  const ids = references.filter(isUuid);
  const rows = await scope.rows(
    sql<GroupRow>`
      select r.id, r.name, r.tags, r.created_by from resource r
      where r.tenant_id = ${scope.tenantId} and r.kind = 'group' and r.state <> 'deleting'
        and (r.id = any (${ids}::uuid[]) or r.name = any (${references}::text[]))`.compile(scope.builder),
  );
  const readable = rows.filter(({ id, tags, created_by: createdBy }) => {
    const core = { tenantId: scope.tenantId, kind: 'group', id, tags, createdBy };
    return scope.actor === undefined || isAllowed(scope.actor, 'read', core);
  });
  return new Map(
    references.flatMap((asked) => {
      const row = readable.find(({ id, name }) => id === asked || name === asked);
      return row ? [[asked, { id: row.id, name: row.name }] as const] : [];
    }),
  );
}
