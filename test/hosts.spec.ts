/** Host names of tenants at a real replica behind a proxy: in force at once when the administrator gives or takes one. */
import { request } from 'node:http';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Replica, startReplica } from './coverage/replicas.js';
import { apiOf } from './harness/client.js';
import { rhyzome } from './harness/grpc.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { until } from './harness/until.js';

let stack: Stack;
let replica: Replica;

beforeAll(async () => {
  stack = await sharedStack('sim');
  replica = await startReplica(stack, 'hosts', ({ api }) => {
    Object.assign(api, { domain: 'api.example.org', trustedProxies: ['127.0.0.1/32'] });
  });
}, 120_000);
afterAll(() => replica?.stop());

/** As a proxy on this machine passes it on. */
async function statusAt(host: string, tenant: string): Promise<number> {
  const { token } = await apiOf(stack, tenant);
  const headers = { authorization: `Bearer ${token}`, 'x-forwarded-host': host };
  return new Promise((done, fail) => {
    const sent = request(`${replica.base}/v1/networks`, { headers }, (answer) => {
      answer.resume();
      done(answer.statusCode!);
    });
    sent.on('error', fail);
    sent.end();
  });
}

it('a tenant’s host is its own, by its id and by its domain', async () => {
  expect(await statusAt('acme.api.example.org', 'acme')).toBe(200);
  expect(await statusAt('acme.api.example.org', 'globex')).toBe(401);
  expect(await statusAt('nobody.api.example.org', 'acme')).toBe(401);

  const domain = 'api.acme.example';
  expect(await statusAt(domain, 'globex')).toBe(200);
  await rhyzome(stack, 'tenant', 'domain', 'add', 'acme', domain);
  try {
    await until('the domain is acme’s', async () => (await statusAt(domain, 'globex')) === 401, 5_000);
    expect(await statusAt(`API.acme.example.:443`, 'acme')).toBe(200);
  } finally {
    await rhyzome(stack, 'tenant', 'domain', 'remove', 'acme', domain);
  }
  await until('the domain is nobody’s', async () => (await statusAt(domain, 'globex')) === 200, 5_000);
});
