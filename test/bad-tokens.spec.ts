/**
 * Who is let in by real processes: tokens that are none, old or forged, and what the roles may do. Every sort of token on every route
 * is tried in access-matrix.spec.ts.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { apiOf, type Client, clientWith, realmSecrets } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { goodClaims, signed, signedWithPublicKey, unsigned } from './harness/tokens.js';

let stack: Stack;
beforeAll(async () => {
  stack = await sharedStack('sim');
}, 120_000);

const past = Math.floor(Date.now() / 1000) - 3600;

/** Each gives a token that must not be let in. */
const refused: Record<string, () => string | Promise<string>> = {
  'has expired': () => changed({ exp: past }),
  'is for another audience': () => changed({ aud: 'urn:somebody:else' }),
  'names an issuer that nobody knows': () => changed({ iss: 'https://issuer.invalid/realms/acme' }),
  'names another realm than the one that signed it': () => changed({ iss: stack.dev.tenants.globex!.issuer }),
  'is not signed': () => unsigned(goodClaims(stack, 'acme')),
  'is signed with the public key as a secret': () => signedWithPublicKey(stack, 'acme', goodClaims(stack, 'acme')),
};

const good = () => signed(stack, 'acme', goodClaims(stack, 'acme'));
const changed = (claims: object) => signed(stack, 'acme', { ...goodClaims(stack, 'acme'), ...claims });

describe('a token', () => {
  it('of the realm, not yet expired, is let in', async () => {
    expect((await clientWith(stack.dev.api, await good()).get('/v1/networks')).status).toBe(200);
  });

  it.each(Object.keys(refused))('that %s is refused', async (name) => {
    const token = await refused[name]!();
    for (const [method, path] of [
      ['GET', '/v1/networks'],
      ['POST', '/v1/networks'],
      ['GET', '/v1/no/such/path'],
    ] as const) {
      const answer = await clientWith(stack.dev.api, token).call(method, path, method === 'POST' ? { json: {} } : {});
      expectProblem(answer, 401, 'unauthenticated');
    }
  });

  it('that is missing, or of another scheme, is asked for', async () => {
    const api = clientWith(stack.dev.api, undefined);
    expectProblem(await api.get('/v1/networks'), 401, 'unauthenticated');
    for (const authorization of ['Basic YWNtZTphY21l', 'Bearer', `Bearer ${await good()} again`, await good()])
      expectProblem(await api.get('/v1/networks', { authorization }), 401, 'unauthenticated');
  });

  it('says nothing of the secrets of its realm', async () => {
    const answer = await clientWith(stack.dev.api, 'garbage').get('/v1/networks');
    for (const secret of Object.values(realmSecrets(stack, 'acme').clientSecrets))
      expect(answer.text).not.toContain(secret);
  });
});

describe('a role', () => {
  let admin: Client;
  let operator: Client;
  let viewer: Client;
  let nobody: Client;
  beforeAll(async () => {
    [admin, operator, viewer] = await Promise.all([
      apiOf(stack),
      apiOf(stack, 'acme', 'operator'),
      apiOf(stack, 'acme', 'viewer'),
    ]);
    nobody = clientWith(stack.dev.api, await changed({ realm_access: { roles: [] } }));
  });

  it('is admin, and makes what the others see', async () => {
    await admin.make('networks', { name: 'roles', subnet: '10.60.0.0/29' });
    for (const api of [admin, operator, viewer]) expect((await api.get('/v1/networks/roles')).status).toBe(200);
  });

  it('that may only look gets 403 for what it sees and 404 for what is not there', async () => {
    const absent = '0193f9a0-0000-7000-8000-000000000000';
    expectProblem(await viewer.post('/v1/networks', { name: 'x', subnet: '10.61.0.0/29' }), 403, 'forbidden');
    expectProblem(await viewer.patch('/v1/networks/roles', { tags: { a: 'b' } }), 403, 'forbidden');
    expectProblem(await viewer.delete('/v1/networks/roles'), 403, 'forbidden');
    expectProblem(await viewer.delete(`/v1/networks/${absent}`), 404, 'not_found');
    expectProblem(await viewer.post('/v1/networks/roles/leases', { mac: '52:54:00:00:00:01' }), 403, 'forbidden');
    expectProblem(await viewer.get('/v1/audit'), 403, 'forbidden');
  });

  it('that is none sees and changes nothing', async () => {
    expectProblem(await nobody.get('/v1/networks'), 403, 'forbidden');
    expectProblem(await nobody.get('/v1/networks/roles'), 404, 'not_found');
    expectProblem(await nobody.delete('/v1/networks/roles'), 404, 'not_found');
    expectProblem(await nobody.post('/v1/networks', { name: 'x', subnet: '10.61.0.0/29' }), 403, 'forbidden');
  });

  it('is narrowed by the scopes of its token', async () => {
    const narrowed = clientWith(stack.dev.api, await changed({ scope: 'openid network:read' }));
    expect((await narrowed.get('/v1/networks/roles')).status).toBe(200);
    expectProblem(await narrowed.get('/v1/instances'), 403, 'forbidden');
    expectProblem(await narrowed.patch('/v1/networks/roles', { tags: { a: 'b' } }), 403, 'forbidden');
  });

  it('leaves what it was refused as it was', async () => {
    expect((await admin.get('/v1/networks/roles')).body).toMatchObject({ state: 'ready', tags: {}, generation: 1 });
    expect((await admin.get('/v1/networks/roles/leases')).body.items).toEqual([]);
    await admin.remove('networks', 'roles');
  });
});
