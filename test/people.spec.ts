/**
 * People and programs of a tenant, over real processes with two replicas of the API: invited, disabled, removed; programs
 * with keys of their own and with API tokens; and that nothing that is shown once stands anywhere afterwards.
 */
import { generateKeyPairSync, type KeyObject } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { SignJWT } from 'jose';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { apiOf, type Client, clientWith } from './harness/client.js';
import { type SecondReplica, startSecondReplica } from './harness/second-replica.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { goodClaims, signed } from './harness/tokens.js';
import { until } from './harness/until.js';

let stack: Stack;
let second: SecondReplica;
let admin: Client;
/** What was told once. */
const secrets: string[] = [];

beforeAll(async () => {
  stack = await stackNamed('people', { driver: 'sim', tenants: ['acme', 'globex'] });
  admin = await apiOf(stack);
  second = await startSecondReplica(stack);
}, 180_000);
afterAll(() => second?.stop());

/** The same token at both replicas. */
const both = (token: string) => [stack.dev.api, second.base].map((base) => clientWith(base, token));

async function statuses(token: string, path = '/v1/networks'): Promise<number[]> {
  return Promise.all(both(token).map(async (client) => (await client.get(path)).status));
}

/** Both replicas answer so within the time. */
const bothAnswer = (token: string, status: number, ms: number) =>
  until(`${status} from both replicas`, async () => (await statuses(token)).every((one) => one === status), ms);

async function jwtOf(sub: string, roles: string[] = []): Promise<string> {
  return signed(stack, 'acme', { ...goodClaims(stack, 'acme'), sub, realm_access: { roles } });
}

async function invite(name: string, more: object = {}): Promise<any> {
  const user = await admin.make('users', { name, ...more });
  secrets.push(user.oneTimePassword);
  return user;
}

async function newToken(client: Client, body: object): Promise<any> {
  const token = await client.make('apitokens', body);
  secrets.push(token.token);
  return token;
}

describe('a user', () => {
  test('who is disabled is refused everywhere within moments, with every token, and welcome again afterwards', async () => {
    const { subject, oneTimePassword } = await invite('dora', { role: 'viewer' });
    expect(oneTimePassword).toMatch(/^\w{5}(-\w{5}){4}$/);
    const login = await jwtOf(subject, ['viewer']);
    const { token } = await newToken(clientWith(stack.dev.api, login), { name: 'doras' });
    for (const one of [login, token]) expect(await statuses(one)).toEqual([200, 200]);
    expect((await admin.post('/v1/users/dora/disable', {})).status).toBe(202);
    for (const one of [login, token]) await bothAnswer(one, 401, 5_000);
    const refusal = await clientWith(stack.dev.api, login).get('/v1/networks');
    expect(refusal.headers.get('www-authenticate')).toContain('error="invalid_token"');
    await until('the job has ended', async () => (await admin.get('/v1/users/dora')).body.state === 'ready');
    await admin.post('/v1/users/dora/enable?wait=30s', {});
    for (const one of [login, token]) await bothAnswer(one, 200, 5_000);
  });

  test('who is removed is refused for good, and takes the API tokens along', async () => {
    const { subject, id } = await invite('gone', { role: 'viewer' });
    const login = await jwtOf(subject, ['viewer']);
    const { token, id: tokenId } = await newToken(clientWith(stack.dev.api, login), { name: 'gones' });
    expect(await statuses(token)).toEqual([200, 200]);
    await admin.remove('users', id);
    for (const one of [login, token]) await bothAnswer(one, 401, 5_000);
    expect((await admin.get(`/v1/apitokens/${tokenId}`)).status).toBe(404);
    await invite('gone', { role: 'viewer' });
    expect(await statuses(login)).toEqual([401, 401]);
  });

  test('is nobody of another tenant', async () => {
    const { id } = await invite('walled');
    const globex = await apiOf(stack, 'globex');
    for (const which of [id, 'walled']) expect((await globex.get(`/v1/users/${which}`)).status).toBe(404);
    await globex.make('users', { name: 'walled' });
  });
});

describe('an API token', () => {
  test('is shown once, serves on every replica, and ends within seconds of its revocation', async () => {
    const key = { 'idempotency-key': 'make-me-one' };
    const made = await admin.post('/v1/apitokens', { name: 'once', scopes: ['network:read'] }, key);
    const { token, id } = made.body;
    secrets.push(token);
    const again = await admin.post('/v1/apitokens', { name: 'once', scopes: ['network:read'] }, key);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(again.text).not.toContain(token);
    expect((await admin.get(`/v1/apitokens/${id}`)).text).not.toContain(token);
    await bothAnswer(token, 200, 5_000);
    expect(await statuses(token, '/v1/instances')).toEqual([403, 403]);
    const [client] = both(token);
    expect((await client!.post('/v1/apitokens', { name: 'child' })).status).toBe(403);
    await until('it is made', async () => (await admin.get(`/v1/apitokens/${id}`)).body.state === 'ready');
    await admin.delete(`/v1/apitokens/${id}`);
    await bothAnswer(token, 401, 5_000);
    const answers = await Promise.all(
      [token, `${token.slice(0, -1)}${token.endsWith('0') ? '1' : '0'}`].map((one) =>
        clientWith(stack.dev.api, one).get('/v1/networks'),
      ),
    );
    const [revoked, mistyped] = answers.map(({ status, headers, body: { requestId: _, ...body } }) => {
      return { status, challenge: headers.get('www-authenticate'), body };
    });
    expect(revoked).toEqual(mistyped);
  });
});

describe('a service account', () => {
  const network = { verbs: ['read', 'create'], kinds: ['network'] };

  test('with an API token may do what grants give to it', async () => {
    const account = await admin.make('serviceaccounts', { name: 'deployer' });
    const { token } = await newToken(admin, { name: 'deployers', serviceAccount: 'deployer' });
    expect(await statuses(token)).toEqual([403, 403]);
    await admin.make('grants', { name: 'for-deployer', subject: { serviceAccount: 'deployer' }, ...network });
    await bothAnswer(token, 200, 5_000);
    const client = clientWith(second.base, token);
    const made = await client.make('networks', { name: 'by-deployer', subnet: '10.61.0.0/24' });
    expect(made.createdBy).toBe(`account:${account.id}`);
    expect((await client.delete(`/v1/networks/${made.id}`)).status).toBe(403);
    await admin.post('/v1/serviceaccounts/deployer/disable?wait=30s', {});
    await bothAnswer(token, 401, 5_000);
  });

  test('with keys of its own logs in by them', async () => {
    const { publicKey, privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const jwk = { ...publicKey.export({ format: 'jwk' }), alg: 'RS256' };
    const account = await admin.make('serviceaccounts', { name: 'backup', publicKeys: { keys: [jwk] } });
    await admin.make('grants', { name: 'for-backup', subject: { serviceAccount: 'backup' }, ...network });
    const token = await logIn(account.clientId, privateKey, account.publicKeys.keys[0].kid);
    await bothAnswer(token, 200, 5_000);
    await admin.remove('grants', 'for-backup');
    await admin.remove('serviceaccounts', account.id);
    await bothAnswer(token, 401, 5_000);
  });

  /** RFC 7523 §2.2. */
  async function logIn(clientId: string, key: KeyObject, kid: string): Promise<string> {
    const { issuer } = stack.dev.tenants.acme!;
    const assertion = await new SignJWT({ jti: crypto.randomUUID() })
      .setProtectedHeader({ alg: 'RS256', kid })
      .setIssuer(clientId)
      .setSubject(clientId)
      .setAudience(issuer)
      .setIssuedAt()
      .setExpirationTime('1m')
      .sign(key);
    const response = await fetch(`${issuer}/protocol/openid-connect/token`, {
      method: 'POST',
      body: new URLSearchParams({
        grant_type: 'client_credentials',
        client_id: clientId,
        client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
        client_assertion: assertion,
      }),
    });
    if (!response.ok) throw new Error(await response.text());
    return ((await response.json()) as { access_token: string }).access_token;
  }
});

test('what was shown once stands in no log', () => {
  const logs = readdirSync(stack.data, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.log'))
    .map((name) => join(stack.data, name))
    .filter((file) => statSync(file).isFile());
  expect(logs.length).toBeGreaterThan(1);
  expect(secrets.length).toBeGreaterThan(5);
  for (const file of logs) {
    const text = readFileSync(file, 'utf8');
    for (const secret of secrets) expect(text.includes(secret), file).toBe(false);
  }
});
