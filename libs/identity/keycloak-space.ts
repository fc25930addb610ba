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
  /** The name that a user's login name was made of; undefined: it was not made here. */
  nameOfUser(username: string): string | undefined;
  /** With a dot, which no name of a user has: its service account's user can never be one of the people. */
  clientId(program: string): string;
  nameOfProgram(clientId: string): string | undefined;
}

/** What a user types in to log in: names are unique in a realm, and tenants share one in organization mode. */
export function loginNameOf(place: { tenantId: string; mode: LoginPlaceMode }, name: string): string {
  return place.mode === 'organization' ? `${name}@${place.tenantId}` : name;
}

export function spaceOf(place: LoginPlace, config: KeycloakConfig): Space {
  const { tenantId } = place;
  const clientId = (program: string) => `${tenantId}.${program}`;
  const nameOfProgram = (id: string) => (id.startsWith(clientId('')) ? id.slice(clientId('').length) : undefined);
  if (place.mode === 'realm')
    return {
      realm: config.realmPrefix + tenantId,
      displayName: place.displayName,
      tenantId,
      ofTenant: tenantId,
      isShared: false,
      username: (name) => loginNameOf(place, name),
      nameOfUser: (username) => username,
      groupPath: (name) => `/${name}`,
      rolePath: () => null,
      clientId,
      nameOfProgram,
    };
  return {
    realm: config.sharedRealm,
    displayName: 'Rhyzome',
    tenantId: null,
    ofTenant: tenantId,
    isShared: true,
    username: (name) => loginNameOf(place, name),
    nameOfUser: (username) => (username.endsWith(`@${tenantId}`) ? username.slice(0, -tenantId.length - 1) : undefined),
    groupPath: (name) => `/${tenantId}/groups/${name}`,
    rolePath: (role) => `/${tenantId}/roles/${role}`,
    clientId,
    nameOfProgram,
  };
}
