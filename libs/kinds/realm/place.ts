/** Where a tenant's people and programs log in, for the kinds that keep them there. */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { LoginPlace } from '#libs/identity';
import type { RowScope } from '#libs/resources';

/** Undefined: the tenant has no place that Rhyzome keeps. */
export async function placeOf(scope: RowScope): Promise<LoginPlace | undefined> {
  const [place] = await scope.rows(
    sql<LoginPlace>`
      select r.tenant_id as "tenantId", k.mode, t.display_name as "displayName"
      from resource r join realm k on k.tenant_id = r.tenant_id and k.id = r.id join tenant t on t.id = r.tenant_id
      where r.tenant_id = ${scope.tenantId} and r.kind = 'realm'
      order by r.created_at limit 1`.compile(scope.builder),
  );
  return place;
}

/** The same; throws RhyzomeError `not_managed` where there is none. `what` is kept there, in the plural. */
export async function keptPlaceOf(scope: RowScope, what: string): Promise<LoginPlace> {
  const place = await placeOf(scope);
  if (place) return place;
  throw new RhyzomeError(
    'not_managed',
    `Your tenant’s identity provider is somebody else’s, who keeps its ${what}; grants name users by sub and groups by name.`,
  );
}
