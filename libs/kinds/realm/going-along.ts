/** Which of a kind go along when the tenant's login place moves. */
import type { RowScope } from '#libs/resources';

/** Ids of all that are not being removed, the oldest first. */
export async function goingAlong(scope: RowScope, kind: string): Promise<string[]> {
  const query = scope.builder
    .selectFrom('resource')
    .select('id')
    .where('tenant_id', '=', scope.tenantId)
    .where('kind', '=', kind)
    .where('state', '!=', 'deleting')
    .orderBy('created_at')
    .orderBy('id');
  return (await scope.rows(query.compile())).map(({ id }) => id);
}
