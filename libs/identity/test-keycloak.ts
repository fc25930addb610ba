/**
 * A real Keycloak for specs: its administrator, who sees and sets what is there, a client that may create realms and
 * nothing else, and tokens without a browser. KEYCLOAK_URL names it; KEYCLOAK_ADMIN and KEYCLOAK_ADMIN_PASSWORD (admin,
 * admin) are of its master realm. Everything that a run makes has its own prefix.
 */
import { randomUUID } from 'node:crypto';
import { exportJWK, generateKeyPair, type JWK, SignJWT } from 'jose';
import { KeycloakIdentity } from './index.js';

export const url = process.env.KEYCLOAK_URL?.replace(/\/+$/, '');
/** Stands in the suite's name, so that a run without a Keycloak says why. */
export const why =
  url === undefined ? ' (skipped: KEYCLOAK_URL names no Keycloak; npm run test:keycloak starts one)' : '';
const run = randomUUID().slice(0, 8);
export const prefix = `idp-${run}-`;
export const shared = `idp-${run}-shared`;
export const scopes = ['network:read', 'network:create', '*:*'];

/** The administrator of the whole Keycloak, as the test sees what is there. */
class Admin {
  private token = '';
  private until = 0;

  async raw(method: string, path: string, body?: unknown): Promise<Response> {
    if (Date.now() > this.until) {
      const form = {
        grant_type: 'password',
        client_id: 'admin-cli',
        username: process.env.KEYCLOAK_ADMIN ?? 'admin',
        password: process.env.KEYCLOAK_ADMIN_PASSWORD ?? 'admin',
      };
      const answer = await tokenOf(`${url}/realms/master`, form);
      this.token = answer.access_token!;
      this.until = Date.now() + 30_000;
    }
    return fetch(`${url}/admin/realms${path}`, {
      method,
      headers: { authorization: `Bearer ${this.token}`, 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
  }

  async get<T = any>(path: string): Promise<T> {
    const answer = await this.raw('GET', path);
    return (answer.status === 404 ? undefined : await answer.json()) as T;
  }
}

interface TokenAnswer {
  access_token?: string;
  refresh_token?: string;
  error?: string;
  error_description?: string;
}

export async function tokenOf(issuer: string, form: Record<string, string>): Promise<TokenAnswer> {
  const answer = await fetch(`${issuer}/protocol/openid-connect/token`, {
    method: 'POST',
    body: new URLSearchParams(form),
  });
  return (await answer.json()) as TokenAnswer;
}

export function claimsOf({ access_token }: TokenAnswer): Record<string, any> {
  return JSON.parse(Buffer.from(access_token!.split('.')[1]!, 'base64url').toString('utf8'));
}

export const admin = new Admin();
const installationId = randomUUID();
/** The provider as a process has it; another installation's with another id. */
export function open(more: { installationId?: string } = {}): KeycloakIdentity {
  return new KeycloakIdentity({
    url: url!,
    adminRealm: 'master',
    clientId: `idp-${run}`,
    clientSecret: 'of the test',
    mode: 'realm',
    sharedRealm: shared,
    realmPrefix: prefix,
    redirectUris: ['https://console.example/*'],
    timeoutMs: 60_000,
    installationId,
    audience: 'urn:rhyzome:api',
    ...more,
  });
}

/** A client of the test's own in the realm, for tokens by name and password without a browser. */
export async function byPassword(realm: string, username: string, password: string, scope = ''): Promise<TokenAnswer> {
  const defaults = ['basic', 'rhyzome', realm === shared ? 'organization' : 'roles'];
  await admin.raw('POST', `/${realm}/clients`, {
    clientId: 'by-password',
    publicClient: true,
    directAccessGrantsEnabled: true,
    defaultClientScopes: defaults,
    optionalClientScopes: scopes,
  });
  return tokenOf(`${url}/realms/${realm}`, {
    grant_type: 'password',
    client_id: 'by-password',
    username,
    password,
    ...(scope && { scope }),
  });
}

export async function userOf(realm: string, username: string) {
  const [user] = await admin.get<any[]>(`/${realm}/users?username=${encodeURIComponent(username)}&exact=true`);
  return user;
}

/** The one-time password was changed at the first login. */
export async function settle(realm: string, username: string, password: string): Promise<void> {
  const { id } = await userOf(realm, username);
  await admin.raw('PUT', `/${realm}/users/${id}/reset-password`, { type: 'password', value: password });
  await admin.raw('PUT', `/${realm}/users/${id}`, { requiredActions: [] });
}

export async function programKey(): Promise<{
  jwks: { keys: JWK[] };
  sign(clientId: string, issuer: string): Promise<string>;
}> {
  const { publicKey, privateKey } = await generateKeyPair('RS256');
  const key = { ...(await exportJWK(publicKey)), kid: randomUUID(), alg: 'RS256', use: 'sig' };
  return {
    jwks: { keys: [key] },
    sign: (clientId, issuer) =>
      new SignJWT()
        .setProtectedHeader({ alg: 'RS256', kid: key.kid })
        .setIssuer(clientId)
        .setSubject(clientId)
        .setAudience(issuer)
        .setJti(randomUUID())
        .setIssuedAt()
        .setExpirationTime('60s')
        .sign(privateKey),
  };
}

export async function byKey(realm: string, clientId: string, key: Awaited<ReturnType<typeof programKey>>) {
  const issuer = `${url}/realms/${realm}`;
  return tokenOf(issuer, {
    grant_type: 'client_credentials',
    client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
    client_assertion: await key.sign(clientId, issuer),
  });
}

/** The client of the installation: it may make realms, and do as it likes in those that it made. */
export async function makeClient(): Promise<void> {
  await admin.raw('POST', '/master/clients', {
    clientId: `idp-${run}`,
    secret: 'of the test',
    publicClient: false,
    serviceAccountsEnabled: true,
    standardFlowEnabled: false,
    // Else its tokens name each role in each realm, and grow too large for a header.
    attributes: { 'client.use.lightweight.access.token.enabled': 'true' },
  });
  const [client] = await admin.get<any[]>(`/master/clients?clientId=idp-${run}`);
  const account = await admin.get(`/master/clients/${client.id}/service-account-user`);
  const role = await admin.get('/master/roles/create-realm');
  await admin.raw('POST', `/master/users/${account.id}/role-mappings/realm`, [role]);
}

/** All that the run has made. */
export async function removeAll(tenants: readonly string[]): Promise<void> {
  for (const realm of [...tenants.map((id) => prefix + id), shared]) await admin.raw('DELETE', `/${realm}`);
  const [client] = await admin.get<any[]>(`/master/clients?clientId=idp-${run}`);
  if (client) await admin.raw('DELETE', `/master/clients/${client.id}`);
}
