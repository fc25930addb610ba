/** What Rhyzome does in Keycloak, done in the development issuer: by the same client, with the outcome that people see. */
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { exportJWK, generateKeyPair } from 'jose';
import * as oidc from 'openid-client';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { KeycloakIdentity, type LoginPlace, type LoginUser, newOneTimePassword } from '#libs/identity';
import { type DevIssuer, startIssuer } from './index.js';
import { Browser, type Shown, submit } from './test-browser.js';

let dataDir: string;
let issuer: DevIssuer;
let identity: KeycloakIdentity;
const installationId = randomUUID();
const place: LoginPlace = { tenantId: 'acme', mode: 'realm', displayName: 'Acme' };
const scopes = ['network:read', 'network:create', '*:*'];

const open = (id = installationId) =>
  new KeycloakIdentity({
    url: issuer.url,
    adminRealm: 'master',
    clientId: issuer.admin.clientId,
    clientSecretFile: issuer.admin.secretFile,
    mode: 'realm',
    sharedRealm: 'shared',
    realmPrefix: '',
    redirectUris: ['http://127.0.0.1/*'],
    timeoutMs: 10_000,
    installationId: id,
    audience: 'urn:rhyzome:api',
  });

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'devissuer-'));
  issuer = await startIssuer({ port: 0, tenants: ['acme'], dataDir });
  identity = open();
});
afterAll(async () => {
  identity?.close();
  await issuer?.stop();
  await rm(dataDir, { recursive: true, force: true });
});

function claimsOf(token: string): Record<string, any> {
  return JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString());
}

const discover = (clientId: string, auth: oidc.ClientAuth = oidc.None()) =>
  oidc.discovery(new URL(issuer.tenants.acme!.issuer), clientId, undefined, auth, {
    execute: [oidc.allowInsecureRequests],
  });

/** The device flow with these forms' fields, one after the other; gives the last page and how to get the tokens. */
async function enter(scope: string, ...forms: Record<string, string>[]) {
  const config = await discover('rhyzome-cli');
  const started = await oidc.initiateDeviceAuthorization(config, { scope });
  const browser = new Browser();
  let page: Shown = await submit(browser, await browser.visit(started.verification_uri_complete!));
  page = await submit(browser, page);
  for (const form of forms) page = await submit(browser, page, form);
  return { page, tokens: () => oidc.pollDeviceAuthorizationGrant(config, started), config };
}

it('makes the tenant’s realm, again and again, and leaves what is another installation’s', async () => {
  const address = { issuer: issuer.tenants.acme!.issuer, organization: null };
  expect(await identity.putPlace(place, scopes)).toEqual(address);
  expect(await identity.putPlace({ ...place, displayName: 'Acme Ltd' }, scopes)).toEqual(address);
  await identity.putScopes(place, [...scopes, 'instance:read']);
  const foreign = open(randomUUID());
  await expect(foreign.putPlace(place, scopes)).rejects.toMatchObject({ code: 'conflict' });
  foreign.close();
});

it('lets people in by a one-time password that they change, with their role and groups', async () => {
  await identity.putGroup(place, 'ops');
  await identity.putGroup(place, 'ops');
  const { password, hash } = await newOneTimePassword();
  const max: LoginUser = {
    name: 'max',
    email: 'max@acme.example',
    enabled: true,
    role: 'operator',
    groups: ['ops'],
    password: hash,
  };
  const { subject } = await identity.putUser(place, max);
  expect(await identity.putUser(place, max)).toEqual({ subject });

  const old = { username: 'max', password };
  const short = { 'password-new': 'short', 'password-confirm': 'short' };
  const chosen = { 'password-new': 'a long enough one', 'password-confirm': 'a long enough one' };
  const entered = await enter('network:read', old, short, chosen);
  expect(entered.page.text).toContain('Your device is logged in');
  const { access_token, refresh_token } = await entered.tokens();
  const claims = claimsOf(access_token);
  expect(claims).toMatchObject({ sub: subject, aud: 'urn:rhyzome:api', scope: 'network:read', groups: ['/ops'] });
  expect(claims.realm_access.roles).toContain('operator');
  expect(claims.exp - claims.iat).toBe(300);

  // The job that set the one-time password runs again: what was chosen stays.
  await identity.putUser(place, { ...max, role: 'viewer', groups: [] });
  const again = await enter('openid', { username: 'max', password: chosen['password-new'] });
  const changed = claimsOf((await again.tokens()).access_token);
  expect(changed).not.toHaveProperty('groups');
  expect(changed.realm_access.roles.filter((role: string) => ['operator', 'viewer'].includes(role))).toEqual([
    'viewer',
  ]);
  expect((await enter('openid', old)).page.status).toBe(401);

  await identity.endSessions(place, 'max');
  await expect(oidc.refreshTokenGrant(entered.config, refresh_token!)).rejects.toMatchObject({
    error: 'invalid_grant',
  });
});

it('keeps disabled and removed people out', async () => {
  const { password, hash } = await newOneTimePassword();
  const eve: LoginUser = { name: 'eve', enabled: true, role: null, groups: [], password: hash };
  await identity.putUser(place, eve);
  const right = { username: 'eve', password };
  const asked = (await enter('openid', right)).page;
  expect(asked.text).toContain('password-new');
  await identity.putUser(place, { ...eve, enabled: false });
  expect((await enter('openid', right)).page.status).toBe(401);
  await identity.removeUser(place, 'eve');
  await identity.removeUser(place, 'eve');
  expect((await enter('openid', right)).page.status).toBe(401);
});

it('gives programs tokens by their own keys', async () => {
  const { privateKey, publicKey } = await generateKeyPair('RS256');
  const jwks = { keys: [{ ...(await exportJWK(publicKey)), kid: 'k1', alg: 'RS256', use: 'sig' }] };
  const program = await identity.putProgram(place, { name: 'backup', jwks });
  expect(await identity.putProgram(place, { name: 'backup', jwks })).toEqual(program);
  const config = await discover(program.clientId, oidc.PrivateKeyJwt({ key: privateKey, kid: 'k1' }));
  const { access_token } = await oidc.clientCredentialsGrant(config, { scope: 'network:read' });
  expect(claimsOf(access_token)).toMatchObject({ sub: program.subject, azp: program.clientId, scope: 'network:read' });
  await identity.removeProgram(place, 'backup');
  await expect(oidc.clientCredentialsGrant(config)).rejects.toThrow();
});

it('lists its realms, and who was put into them', async () => {
  for (let n = 100; n < 205; n++)
    await identity.putUser(place, { name: `p${n}`, enabled: true, role: null, groups: [] });
  const places: unknown[] = [];
  for await (const one of identity.listPlaces()) places.push(one);
  expect(places).toContainEqual({ tenantId: place.tenantId, mode: place.mode });
  const pages: string[][] = [];
  for await (const page of identity.listAccounts(place)) pages.push(page.map(({ sort, name }) => `${sort} ${name}`));
  expect(pages.every(({ length }) => length <= 100)).toBe(true);
  const all = pages.flat();
  expect(all).toEqual(expect.arrayContaining(['group ops', 'user max', 'user p100', 'user p204']));
  // Those that every realm has here from its beginning were put by nobody.
  expect(all).not.toContain('user alice');
});

it('closes and opens the realm, and goes back to the development realm when it is removed', async () => {
  await identity.setPlaceEnabled(place, false);
  await expect(enter('openid')).rejects.toThrow();
  await identity.setPlaceEnabled(place, true);
  expect((await enter('openid')).page.text).toContain('Development login');
  await identity.removePlace(place);
  await identity.removePlace(place);
  const page = await enter('openid', { username: 'max', password: 'a long enough one' });
  expect(page.page.status).toBe(401);
  await identity.putPlace(place, scopes);
});
