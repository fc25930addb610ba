/**
 * Where in Keycloak a tenant's people, groups and programs are, in either mode: the whole of its own realm, or what carries
 * its name in the shared one. Names are made here and nowhere else.
 */
import type { KeycloakConfig } from '#libs/config';
import type { LoginPlace, LoginPlaceMode, LoginRole } from './identity-provider.js';
import type { RealmPlan } from './keycloak-realms.js';

export interface Space extends RealmPlan {
  ofTenant: string;
  isShared: boolean;
  username(name: string): string;
  groupPath(name: string): string;
  /** The group that says a role, in the shared realm; null: a realm role does. */
  rolePath(role: LoginRole): string | null;
  /** With a dot, which no name of a user has: its service account's user can never be one of the people. */
  clientId(program: string): string;
}

/** What a user types in to log in: names are unique in a realm, and tenants share one in organization mode. */
export function loginNameOf(place: { tenantId: string; mode: LoginPlaceMode }, name: string): string {
  return place.mode === 'organization' ? `${name}@${place.tenantId}` : name;
}

export function spaceOf(place: LoginPlace, config: KeycloakConfig): Space {
  const { tenantId } = place;
  const clientId = (program: string) => `${tenantId}.${program}`;
  if (place.mode === 'realm')
    return {
      realm: config.realmPrefix + tenantId,
      displayName: place.displayName,
      tenantId,
      ofTenant: tenantId,
      isShared: false,
      username: (name) => loginNameOf(place, name),
      groupPath: (name) => `/${name}`,
      rolePath: () => null,
      clientId,
    };
  return {
    realm: config.sharedRealm,
    displayName: 'Rhyzome',
    tenantId: null,
    ofTenant: tenantId,
    isShared: true,
    username: (name) => loginNameOf(place, name),
    groupPath: (name) => `/${tenantId}/groups/${name}`,
    rolePath: (role) => `/${tenantId}/roles/${role}`,
    clientId,
  };
}
