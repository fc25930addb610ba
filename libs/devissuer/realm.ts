/**
 * One realm of the development issuer: an oidc-provider with Keycloak's paths and Keycloak's claims. Whom it knows is the
 * directory's; it knows nothing of HTTP servers or files.
 */
import Provider, { type Configuration, interactionPolicy, type KoaContextWithOIDC } from 'oidc-provider';
import { confirmPage, enterCodePage, successPage } from './device-pages.js';
import type { Account, RealmDirectory } from './directory.js';
import type { RealmSecrets } from './secrets.js';
import { SessionStore } from './session-store.js';

/** What every Rhyzome access token has as audience. */
export const apiAudience = 'urn:rhyzome:api';

const keycloakRoutes = {
  authorization: '/protocol/openid-connect/auth',
  token: '/protocol/openid-connect/token',
  jwks: '/protocol/openid-connect/certs',
  userinfo: '/protocol/openid-connect/userinfo',
  introspection: '/protocol/openid-connect/token/introspect',
  revocation: '/protocol/openid-connect/revoke',
  end_session: '/protocol/openid-connect/logout',
  device_authorization: '/protocol/openid-connect/auth/device',
  code_verification: '/device',
};

/** How often a device may ask for its tokens (RFC 8628, section 3.2); Keycloak says 5. */
const POLL_SECONDS = 1;
const DEVICE_CODE_SECONDS = 600;

export interface RealmOptions {
  issuer: string;
  secrets: RealmSecrets;
  directory: RealmDirectory;
  accessTokenTtlSeconds: number;
}

export interface OpenRealm {
  provider: Provider;
  sessions: SessionStore;
}

/** Builds the provider of one realm. */
export function makeRealm(options: RealmOptions): OpenRealm {
  const { issuer, secrets, directory, accessTokenTtlSeconds } = options;
  const sessions = new SessionStore();
  const lifespan = (clientId: string | undefined) => directory.accessTokenLifespan(clientId) ?? accessTokenTtlSeconds;
  const configuration: Configuration = {
    adapter: (model) => (model === 'Client' ? clientAdapter(sessions, directory) : sessions.adapter(model)),
    jwks: { keys: [secrets.signingKey] } as Configuration['jwks'],
    cookies: { keys: [secrets.cookieKey], long: { signed: true }, short: { signed: true } },
    routes: keycloakRoutes,
    scopes: ['openid', 'profile', 'email', 'offline_access'],
    claims: { profile: ['name', 'preferred_username'], email: ['email'] },
    clientBasedCORS: (_ctx, origin) => ['127.0.0.1', 'localhost', '[::1]'].includes(new URL(origin).hostname),
    interactions: {
      policy: loginOnly(),
      url: (_ctx, interaction) => `/realms/${directory.name}/interaction/${interaction.uid}`,
    },
    findAccount: (_ctx, id) => findAccount(directory, id),
    loadExistingGrant: grantWhatIsAsked,
    // As Keycloak: whoever logs in gets a refresh token without asking for offline access.
    issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed('refresh_token'),
    extraTokenClaims: (_ctx, token) => keycloakClaims(token, directory),
    formats: { customizers: { jwt: (_ctx, token, jwt) => nameServiceAccount(token, jwt, directory) } },
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      revocation: { enabled: true, allowedPolicy: async (_ctx, client, token) => token.clientId === client.clientId },
      deviceFlow: {
        enabled: true,
        mask: '****-****',
        userCodeInputSource: enterCodePage,
        userCodeConfirmSource: confirmPage,
        successSource: successPage,
      },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => apiAudience,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, _resource, client) => ({
          scope: rhyzomeScopes(askedScope(ctx)),
          audience: apiAudience,
          accessTokenFormat: 'jwt',
          accessTokenTTL: lifespan(client.clientId),
          jwt: { sign: { alg: 'RS256' } },
        }),
      },
    },
    renderError: (ctx, out) => {
      ctx.type = 'text/plain';
      ctx.body = `${out.error}: ${out.error_description ?? ''}\n`;
    },
    ttl: {
      AccessToken: (_ctx, _token, client) => lifespan(client.clientId),
      ClientCredentials: (_ctx, _token, client) => lifespan(client.clientId),
      AuthorizationCode: 60,
      DeviceCode: DEVICE_CODE_SECONDS,
      IdToken: 3600,
      RefreshToken: 86_400,
      Interaction: 3600,
      Session: 86_400,
      Grant: 86_400,
    },
  };
  const provider = new Provider(issuer, configuration);
  provider.proxy = true;
  provider.use(async (ctx, next) => {
    await next();
    if (ctx.oidc?.route === 'device_authorization' && ctx.status === 200)
      Object.assign(ctx.body as object, { interval: POLL_SECONDS });
  });
  return { provider, sessions };
}

function clientAdapter(sessions: SessionStore, directory: RealmDirectory) {
  return { ...sessions.adapter('Client'), find: async (id: string) => directory.client(id) };
}

function findAccount(directory: RealmDirectory, id: string) {
  const account = directory.account(id);
  if (!account) return undefined;
  const { subject, name, username, email } = account;
  const claims = { sub: subject, name, preferred_username: username, email };
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
  const { AuthorizationCode, RefreshToken, DeviceCode } = entities;
  return String(params?.scope ?? AuthorizationCode?.scope ?? RefreshToken?.scope ?? DeviceCode?.scope ?? '');
}

function rhyzomeScopes(scope: string): string {
  return scope
    .split(' ')
    .filter((word) => word.includes(':'))
    .join(' ');
}

interface TokenModel {
  accountId?: string;
  clientId?: string;
  sessionUid?: string;
}

function accountOf({ accountId, clientId }: TokenModel, directory: RealmDirectory): Account | undefined {
  return accountId ? directory.account(accountId) : directory.serviceAccount(clientId ?? '');
}

/** Adds to a token what Keycloak adds: typ, azp, sid, preferred_username, the realm's roles and the groups. */
function keycloakClaims(token: object, directory: RealmDirectory): Record<string, unknown> {
  const model = token as TokenModel;
  const account = accountOf(model, directory);
  return {
    typ: 'Bearer',
    azp: model.clientId,
    ...(model.sessionUid && { sid: model.sessionUid }),
    preferred_username: account?.username,
    ...(account?.name && { name: account.name }),
    realm_access: { roles: [...(account?.roles ?? []), 'offline_access'] },
    ...(account?.groups.length && { groups: account.groups }),
  };
}

/** Keycloak’s `sub` of a client's own token is its service account's id, not the client's name. */
function nameServiceAccount(token: object, jwt: { payload: object }, directory: RealmDirectory): void {
  const { accountId, clientId } = token as TokenModel;
  if (!accountId && clientId) Object.assign(jwt.payload, { sub: directory.serviceAccount(clientId).subject });
}
