/** The development issuer over HTTP, as clients use it; the browser is a cookie jar. */
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as oidc from 'openid-client';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { type DevIssuer, startIssuer } from './index.js';
import { Browser, submit } from './test-browser.js';

let dataDir: string;
let issuer: DevIssuer;
const output: unknown[][] = [];

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'devissuer-'));
  const keep = (...line: unknown[]) => void output.push(line);
  vi.spyOn(console, 'warn').mockImplementation(keep);
  vi.spyOn(console, 'info').mockImplementation(keep);
  issuer = await startIssuer({ port: 0, tenants: ['acme', 'globex'], dataDir });
});

afterAll(async () => {
  await issuer?.stop();
  vi.restoreAllMocks();
  await rm(dataDir, { recursive: true, force: true });
});

const access = (tenant: string) => issuer.tenants[tenant]!;

function claimsOf(token: string): Record<string, any> {
  return JSON.parse(Buffer.from(token.split('.')[1]!, 'base64url').toString());
}

async function askToken(tenant: string, form: Record<string, string>, headers: Record<string, string> = {}) {
  const response = await fetch(`${access(tenant).issuer}/protocol/openid-connect/token`, {
    method: 'POST',
    headers,
    body: new URLSearchParams({ grant_type: 'client_credentials', ...form }),
  });
  return { status: response.status, body: (await response.json()) as Record<string, any> };
}

const secretInForm = (tenant: string, role = 'admin') => ({
  client_id: `${tenant}-${role}`,
  client_secret: access(tenant).clientSecrets[`${tenant}-${role}`]!,
});

describe('client credentials', () => {
  it('gives a Keycloak-shaped JWT without any scope, with the secret in the form', async () => {
    const { status, body } = await askToken('acme', secretInForm('acme'));
    expect(status).toBe(200);
    expect(body).toMatchObject({ token_type: 'Bearer', expires_in: 3600 });
    const claims = claimsOf(body.access_token);
    expect(claims).toMatchObject({
      iss: access('acme').issuer,
      aud: 'urn:rhyzome:api',
      azp: 'acme-admin',
      typ: 'Bearer',
    });
    expect(claims.realm_access.roles).toContain('admin');
    expect(claims.scope).toBeUndefined();
  });

  it('takes the secret as Basic', async () => {
    const { clientId, clientSecret } = access('globex');
    const basic = Buffer.from(`${clientId}:${clientSecret}`).toString('base64');
    const { status } = await askToken('globex', {}, { authorization: `Basic ${basic}` });
    expect(status).toBe(200);
  });

  it('passes Rhyzome scopes through and drops others', async () => {
    const scope = 'network:create *:read profile nonsense';
    const { body } = await askToken('acme', { ...secretInForm('acme', 'operator'), scope });
    expect(claimsOf(body.access_token).scope).toBe('network:create *:read');
    expect(claimsOf(body.access_token).realm_access.roles).toContain('operator');
  });

  it('refuses a wrong secret and an unknown realm', async () => {
    expect((await askToken('acme', { client_id: 'acme-admin', client_secret: 'wrong' })).status).toBe(401);
    expect((await fetch(`${issuer.url}/realms/nobody/.well-known/openid-configuration`)).status).toBe(404);
  });
});

describe('discovery', () => {
  it('has Keycloak’s paths', async () => {
    const config = await oidc.discovery(new URL(access('acme').issuer), 'x', undefined, undefined, {
      execute: [oidc.allowInsecureRequests],
    });
    const paths = `${access('acme').issuer}/protocol/openid-connect`;
    expect(config.serverMetadata()).toMatchObject({
      issuer: access('acme').issuer,
      token_endpoint: `${paths}/token`,
      jwks_uri: `${paths}/certs`,
      authorization_endpoint: `${paths}/auth`,
    });
  });
});

async function logIn(tenant: string, user: string, password: string) {
  const { issuer: issuerUrl, consoleClientId } = access(tenant);
  const config = await oidc.discovery(new URL(issuerUrl), consoleClientId, undefined, oidc.None(), {
    execute: [oidc.allowInsecureRequests],
  });
  const verifier = oidc.randomPKCECodeVerifier();
  const start = oidc.buildAuthorizationUrl(config, {
    redirect_uri: 'http://127.0.0.1:5555/callback',
    scope: 'openid profile network:read',
    code_challenge: await oidc.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  });
  const browser = new Browser();
  const first = await browser.go(start.href);
  const page = new URL(first.headers.get('location')!, start).href;
  expect(await (await browser.go(page)).text()).toContain('Alice');
  let response = await browser.go(page, { method: 'POST', body: new URLSearchParams({ login: user, password }) });
  if (response.status === 401) return { status: 401 as const };
  let next = new URL(response.headers.get('location')!, page);
  for (let hop = 0; next.pathname !== '/callback' && hop < 5; hop++) {
    response = await browser.go(next.href);
    next = new URL(response.headers.get('location')!, next);
  }
  const tokens = await oidc.authorizationCodeGrant(config, next, { pkceCodeVerifier: verifier });
  return { status: 200 as const, tokens };
}

describe('authorization code with PKCE', () => {
  it('logs alice in, headless, with her roles and the scopes that were asked for', async () => {
    const result = await logIn('acme', 'alice', access('acme').userPassword);
    const claims = claimsOf(result.tokens!.access_token);
    expect(claims).toMatchObject({ sub: 'alice', aud: 'urn:rhyzome:api', scope: 'network:read', name: 'Alice Admin' });
    expect(claims.realm_access.roles).toContain('admin');
    expect(result.tokens!.claims()?.sub).toBe('alice');
  });

  it('refuses a wrong password and an unknown user', async () => {
    expect((await logIn('acme', 'alice', 'wrong')).status).toBe(401);
    expect((await logIn('acme', 'mallory', access('acme').userPassword)).status).toBe(401);
  });
});

async function startDevice(tenant: string, scope = 'network:read') {
  const { issuer: issuerUrl, commandClientId } = access(tenant);
  const config = await oidc.discovery(new URL(issuerUrl), commandClientId, undefined, oidc.None(), {
    execute: [oidc.allowInsecureRequests],
  });
  return { config, started: await oidc.initiateDeviceAuthorization(config, { scope }) };
}

describe('the device flow (RFC 8628)', () => {
  it('has Keycloak’s paths, and logs in whoever has the code', async () => {
    const { config, started } = await startDevice('acme');
    expect(config.serverMetadata().device_authorization_endpoint).toBe(
      `${access('acme').issuer}/protocol/openid-connect/auth/device`,
    );
    expect(started).toMatchObject({
      user_code: expect.stringMatching(/^[A-Z]{4}-[A-Z]{4}$/),
      verification_uri: `${access('acme').issuer}/device`,
      verification_uri_complete: `${access('acme').issuer}/device?user_code=${started.user_code}`,
      expires_in: 600,
      interval: 1,
    });
    const browser = new Browser();
    const asked = await submit(browser, await browser.visit(started.verification_uri_complete!));
    expect(asked.text).toContain(started.user_code);
    const login = await submit(browser, asked);
    const wrong = await submit(browser, login, { username: 'alice', password: 'wrong' });
    expect(wrong.status).toBe(401);
    const end = await submit(browser, wrong, { username: 'alice', password: access('acme').userPassword });
    expect(end.text).toContain('Your device is logged in');
    const tokens = await oidc.pollDeviceAuthorizationGrant(config, started);
    expect(claimsOf(tokens.access_token)).toMatchObject({ sub: 'alice', azp: 'rhyzome-cli', scope: 'network:read' });
    const again = await oidc.refreshTokenGrant(config, tokens.refresh_token!);
    expect(claimsOf(again.access_token)).toMatchObject({ sub: 'alice', scope: 'network:read' });
  });

  it('says so when the user refuses', async () => {
    const { config, started } = await startDevice('acme');
    const browser = new Browser();
    const asked = await submit(browser, await browser.visit(started.verification_uri_complete!));
    expect((await submit(browser, asked, { abort: 'yes' })).text).toContain('refused');
    await expect(oidc.pollDeviceAuthorizationGrant(config, started)).rejects.toMatchObject({ error: 'access_denied' });
  });

  it('takes no code that nobody was given', async () => {
    const browser = new Browser();
    const page = await browser.visit(`${access('acme').issuer}/device`);
    const { text } = await submit(browser, page, { user_code: 'ABCD-EFGH' });
    expect(text).toContain('unknown');
  });
});

describe('restarts', () => {
  it('keeps port, keys and secrets, in files that only the owner reads', async () => {
    const jwksUrl = `${access('acme').issuer}/protocol/openid-connect/certs`;
    const before = { access: access('acme'), jwks: await (await fetch(jwksUrl)).json() };
    await issuer.stop();
    issuer = await startIssuer({ port: 0, tenants: ['acme'], dataDir });
    expect(access('acme')).toEqual(before.access);
    expect(await (await fetch(jwksUrl)).json()).toEqual(before.jwks);
    for (const file of await readdir(dataDir)) {
      expect((await stat(join(dataDir, file))).mode & 0o777).toBe(0o600);
    }
    await issuer.addTenant('globex');
    expect((await askToken('globex', secretInForm('globex'))).status).toBe(200);
  });

  it('was quiet', () => {
    expect(output).toEqual([]);
  });
});
