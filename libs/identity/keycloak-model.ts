/**
 * What a place is made of in Keycloak: the representations of its admin API, as far as Rhyzome writes them, and the
 * documents that a realm, its clients and its client scope begin with. All of it carries the installation's id, so that
 * nothing that somebody else made is ever changed or removed.
 */
import type { LoginProgram } from './identity-provider.js';

/** On realms, organizations, groups, users and clients that this installation made. */
export const INSTALLATION = 'rhyzome.installation';
/** The tenant that it is for. */
export const TENANT = 'rhyzome.tenant';
/** On users: which one-time password was set last (passwordMark). */
export const PASSWORD = 'rhyzome.password';
/** On users and programs in organization mode: false where they stay disabled when their tenant goes on. */
export const ENABLED = 'rhyzome.enabled';
/** On clients: `program` for a service account of a tenant. */
export const ROLE = 'rhyzome.role';

export interface RealmRepresentation {
  realm: string;
  displayName?: string;
  enabled?: boolean;
  attributes?: Record<string, string>;
  [setting: string]: unknown;
}

export interface ProtocolMapper {
  id?: string;
  name: string;
  protocol: 'openid-connect';
  protocolMapper: string;
  config: Record<string, string>;
}

export interface ClientScopeRepresentation {
  id: string;
  name: string;
  protocolMappers?: ProtocolMapper[];
}

export interface ClientRepresentation {
  id: string;
  clientId: string;
  enabled?: boolean;
  redirectUris?: string[];
  attributes?: Record<string, string>;
  defaultClientScopes?: string[];
  optionalClientScopes?: string[];
}

export interface GroupRepresentation {
  id: string;
  name: string;
  path: string;
  attributes?: Record<string, string[]>;
}

export interface UserRepresentation {
  id: string;
  username: string;
  email?: string;
  firstName?: string;
  lastName?: string;
  enabled?: boolean;
  attributes?: Record<string, string[]>;
}

export interface OrganizationRepresentation {
  id: string;
  name: string;
  alias: string;
  enabled: boolean;
  description?: string;
  attributes?: Record<string, string[]>;
  domains?: { name: string; verified?: boolean }[];
}

export interface RoleRepresentation {
  id: string;
  name: string;
}

export interface UserProfile {
  unmanagedAttributePolicy?: string;
  attributes: {
    name: string;
    required?: unknown;
    permissions?: { view: string[]; edit: string[] };
    validations?: Record<string, Record<string, unknown>>;
  }[];
  [other: string]: unknown;
}

/** The client scope that makes a token one for Rhyzome. */
export const SCOPE = 'rhyzome';
export const CONSOLE_CLIENT = 'rhyzome-console';
export const CLI_CLIENT = 'rhyzome-cli';

/** As a realm is made; an operator may change what is not in `attributes` afterwards. */
export function newRealm(
  realm: string,
  displayName: string,
  attributes: Record<string, string>,
  organizations: boolean,
): RealmRepresentation {
  return {
    realm,
    displayName,
    enabled: true,
    attributes,
    organizationsEnabled: organizations,
    sslRequired: 'external',
    registrationAllowed: false,
    // People log in by name: one address may belong to several.
    loginWithEmailAllowed: false,
    duplicateEmailsAllowed: true,
    editUsernameAllowed: false,
    resetPasswordAllowed: false,
    // Those whom an administrator invites have a hashed one-time password, which this does not look at.
    passwordPolicy: 'length(12) and notUsername(undefined)',
    bruteForceProtected: true,
    permanentLockout: false,
    failureFactor: 10,
    waitIncrementSeconds: 60,
    maxFailureWaitSeconds: 900,
    accessTokenLifespan: 300,
    ssoSessionIdleTimeout: 1800,
    ssoSessionMaxLifespan: 36_000,
    revokeRefreshToken: true,
    refreshTokenMaxReuse: 0,
    oauth2DeviceCodeLifespan: 600,
    oauth2DevicePollingInterval: 5,
    defaultSignatureAlgorithm: 'RS256',
  };
}

/** Names may have one letter, nothing is asked of people at their first login, and Rhyzome's attributes are out of their reach. */
export function profileForUs(given: UserProfile): UserProfile {
  return {
    ...given,
    unmanagedAttributePolicy: 'ADMIN_EDIT',
    attributes: given.attributes.map(({ required: _asked, ...attribute }) => ({
      ...attribute,
      permissions: { view: ['admin', 'user'], edit: ['admin'] },
      ...(attribute.name === 'username' && {
        validations: { ...attribute.validations, length: { min: 1, max: 255 } },
      }),
    })),
  };
}

/** Who the token is for, and the groups of its bearer by their whole paths: `/a/ops` is not the tenant's group `ops`. */
export function mappersOf(audience: string): ProtocolMapper[] {
  const where = { 'access.token.claim': 'true', 'id.token.claim': 'false', 'introspection.token.claim': 'true' };
  return [
    {
      name: 'rhyzome audience',
      protocol: 'openid-connect',
      protocolMapper: 'oidc-audience-mapper',
      config: { 'included.custom.audience': audience, ...where },
    },
    {
      name: 'rhyzome groups',
      protocol: 'openid-connect',
      protocolMapper: 'oidc-group-membership-mapper',
      config: { 'claim.name': 'groups', 'full.path': 'true', 'userinfo.token.claim': 'false', ...where },
    },
  ];
}

const scopeAttributes = { 'display.on.consent.screen': 'false' };

export function newTokenScope(audience: string) {
  return {
    name: SCOPE,
    description: 'Makes the token one for Rhyzome: audience and groups',
    protocol: 'openid-connect',
    attributes: { ...scopeAttributes, 'include.in.token.scope': 'false' },
    protocolMappers: mappersOf(audience),
  };
}

/** One that narrows a token, e.g. `network:read`. */
export function newNarrowingScope(name: string) {
  return { name, protocol: 'openid-connect', attributes: { ...scopeAttributes, 'include.in.token.scope': 'true' } };
}

/** In organization mode Keycloak's own scope `organization` says whose the token is. */
export function defaultScopes(organizations: boolean): string[] {
  const always = ['basic', 'profile', 'email', 'acr', 'web-origins', SCOPE];
  return organizations ? [...always, 'organization'] : [...always, 'roles'];
}

interface PublicClient {
  clientId: string;
  name: string;
  redirectUris: string[];
  attributes: Record<string, string>;
}

/** The clients that people log in with. Public: they keep no secret, hence PKCE with S256 (RFC 7636). */
export function publicClients(redirectUris: readonly string[]): PublicClient[] {
  const pkce = { 'pkce.code.challenge.method': 'S256' };
  return [
    {
      clientId: CONSOLE_CLIENT,
      name: 'Rhyzome console',
      redirectUris: [...redirectUris],
      attributes: { ...pkce, 'post.logout.redirect.uris': '+' },
    },
    {
      clientId: CLI_CLIENT,
      name: 'Rhyzome command line',
      // RFC 8252, section 7.3: any port of loopback.
      redirectUris: ['http://127.0.0.1/*', 'http://[::1]/*'],
      attributes: { ...pkce, 'oauth2.device.authorization.grant.enabled': 'true' },
    },
  ];
}

export function newPublicClient(client: PublicClient, installation: string) {
  return {
    ...client,
    enabled: true,
    protocol: 'openid-connect',
    publicClient: true,
    standardFlowEnabled: true,
    implicitFlowEnabled: false,
    directAccessGrantsEnabled: false,
    webOrigins: ['+'],
    attributes: { ...client.attributes, [INSTALLATION]: installation },
  };
}

export function newProgramClient(
  program: LoginProgram,
  options: { clientId: string; tenantId: string; installation: string; enabled: boolean },
) {
  return {
    clientId: options.clientId,
    name: program.name,
    enabled: options.enabled,
    protocol: 'openid-connect',
    publicClient: false,
    standardFlowEnabled: false,
    directAccessGrantsEnabled: false,
    serviceAccountsEnabled: true,
    // RFC 7523: it proves itself with its own key; the secret that Keycloak makes up all the same serves for nothing.
    clientAuthenticatorType: 'client-jwt',
    attributes: {
      'use.jwks.string': 'true',
      'jwks.string': JSON.stringify(program.jwks),
      [INSTALLATION]: options.installation,
      [TENANT]: options.tenantId,
      [ROLE]: 'program',
    },
  };
}
