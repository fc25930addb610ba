/** Where a tenant's people and programs log in, for the kinds that keep them there. */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { LoginPlace } from '#libs/identity';
import type { RowScope } from '#libs/resources';

/** Undefined: the tenant has no place that Rhyzome keeps, or not yet, or not any more. */
export async function placeOf(scope: RowScope): Promise<LoginPlace | undefined> {
  const [place] = await scope.rows(
    sql<LoginPlace>`
      select k.tenant_id as "tenantId", k.place_mode as mode, t.display_name as "displayName"
      from realm k join tenant t on t.id = k.tenant_id
      where k.tenant_id = ${scope.tenantId} and k.issuer is not null`.compile(scope.builder),
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
