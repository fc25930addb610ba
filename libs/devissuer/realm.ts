/**
 * One realm of the development issuer: an oidc-provider with Keycloak's paths, Keycloak's claims, one client per role
 * and a few users. It knows nothing of HTTP servers or files.
 */
import Provider, { type Configuration, interactionPolicy, type KoaContextWithOIDC } from 'oidc-provider';
import type { RealmSecrets } from './secrets.js';
import { SessionStore } from './session-store.js';

/** What every Rhyzome access token has as audience. */
export const apiAudience = 'urn:rhyzome:api';

/** The users of every development realm, each with its realm roles. They share the realm's password. */
export const devUsers: Record<string, { name: string; roles: string[] }> = {
  alice: { name: 'Alice Admin', roles: ['admin'] },
  oscar: { name: 'Oscar Operator', roles: ['operator'] },
  vera: { name: 'Vera Viewer', roles: ['viewer'] },
  nora: { name: 'Nora Norole', roles: [] },
};

/** Service clients of a realm by id, with the roles of their service accounts. */
export function serviceClients(realm: string): Record<string, string[]> {
  return { [`${realm}-admin`]: ['admin'], [`${realm}-operator`]: ['operator'], [`${realm}-viewer`]: ['viewer'] };
}

const keycloakRoutes = {
  authorization: '/protocol/openid-connect/auth',
  token: '/protocol/openid-connect/token',
  jwks: '/protocol/openid-connect/certs',
  userinfo: '/protocol/openid-connect/userinfo',
  introspection: '/protocol/openid-connect/token/introspect',
  revocation: '/protocol/openid-connect/revoke',
  end_session: '/protocol/openid-connect/logout',
};

export interface RealmOptions {
  realm: string;
  issuer: string;
  secrets: RealmSecrets;
  accessTokenTtlSeconds: number;
}

/** Builds the provider of one realm. */
export function makeRealm({ realm, issuer, secrets, accessTokenTtlSeconds }: RealmOptions): Provider {
  const store = new SessionStore();
  const clientRoles = serviceClients(realm);
  const configuration: Configuration = {
    adapter: (model) => store.adapter(model),
    clients: [...Object.keys(clientRoles).map((id) => serviceClient(id, secrets)), consoleClient(realm)],
    jwks: { keys: [secrets.signingKey] } as Configuration['jwks'],
    cookies: { keys: [secrets.cookieKey], long: { signed: true }, short: { signed: true } },
    routes: keycloakRoutes,
    scopes: ['openid', 'profile', 'email', 'offline_access'],
    claims: { profile: ['name', 'preferred_username'], email: ['email'] },
    clientBasedCORS: (_ctx, origin) => ['127.0.0.1', 'localhost', '[::1]'].includes(new URL(origin).hostname),
    interactions: {
      policy: loginOnly(),
      url: (_ctx, interaction) => `/realms/${realm}/interaction/${interaction.uid}`,
    },
    findAccount: (_ctx, id) => findAccount(realm, id),
    loadExistingGrant: grantWhatIsAsked,
    extraTokenClaims: (_ctx, token) => keycloakClaims(token, clientRoles),
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => apiAudience,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx) => ({
          scope: rhyzomeScopes(askedScope(ctx)),
          audience: apiAudience,
          accessTokenFormat: 'jwt',
          accessTokenTTL: accessTokenTtlSeconds,
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
    renderError: (ctx, out) => {
      ctx.type = 'text/plain';
      ctx.body = `${out.error}: ${out.error_description ?? ''}\n`;
    },
    ttl: {
      AccessToken: accessTokenTtlSeconds,
      ClientCredentials: accessTokenTtlSeconds,
      AuthorizationCode: 60,
      IdToken: 3600,
      RefreshToken: 86_400,
      Interaction: 3600,
      Session: 86_400,
      Grant: 86_400,
    },
  };
  const provider = new Provider(issuer, configuration);
  provider.proxy = true;
  return provider;
}

function serviceClient(id: string, secrets: RealmSecrets) {
  return {
    client_id: id,
    client_secret: secrets.clientSecrets[id],
    grant_types: ['client_credentials'],
    redirect_uris: [],
    response_types: [],
  };
}

/** The public client of browsers and command lines: authorization code with PKCE, loopback redirects (RFC 8252). */
function consoleClient(realm: string) {
  return {
    client_id: `${realm}-console`,
    application_type: 'native' as const,
    token_endpoint_auth_method: 'none' as const,
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code' as const],
    redirect_uris: ['http://127.0.0.1/callback', 'http://localhost/callback'],
  };
}

function findAccount(realm: string, id: string) {
  const user = Object.hasOwn(devUsers, id) ? devUsers[id] : undefined;
  if (!user) return undefined;
  const claims = { sub: id, name: user.name, preferred_username: id, email: `${id}@${realm}.example` };
  return { accountId: id, claims: async () => claims };
}

function loginOnly() {
  const policy = interactionPolicy.base();
  policy.get('consent')?.checks.remove('native_client_prompt');
  return policy;
}

/** No consent page: whoever logs in to a development realm gets what the client asked for. */
async function grantWhatIsAsked(ctx: KoaContextWithOIDC) {
  const { session, client, provider } = ctx.oidc;
  if (!session?.accountId || !client) return undefined;
  const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
  grant.addOIDCScope('openid profile email offline_access');
  const scope = rhyzomeScopes(askedScope(ctx));
  if (scope) grant.addResourceScope(apiAudience, scope);
  await grant.save();
  return grant;
}

function askedScope(ctx: KoaContextWithOIDC): string {
  const { params, entities } = ctx.oidc;
  return String(params?.scope ?? entities.AuthorizationCode?.scope ?? entities.RefreshToken?.scope ?? '');
}

function rhyzomeScopes(scope: string): string {
  return scope
    .split(' ')
    .filter((word) => word.includes(':'))
    .join(' ');
}

/** Adds to a token what Keycloak adds: typ, azp, preferred_username and the realm's roles. */
function keycloakClaims(token: object, clientRoles: Record<string, string[]>): Record<string, unknown> {
  const { accountId, clientId } = token as { accountId?: string; clientId?: string };
  const roles = accountId ? devUsers[accountId]?.roles : clientRoles[clientId ?? ''];
  return {
    typ: 'Bearer',
    azp: clientId,
    preferred_username: accountId ?? `service-account-${clientId}`,
    ...(accountId && { name: devUsers[accountId]?.name }),
    realm_access: { roles: [...(roles ?? []), 'offline_access'] },
  };
}
