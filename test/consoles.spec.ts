/** Consoles, metrics and what guests are told, from any replica of the servers, over the processes that an operator runs. */
import { once } from 'node:events';
import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { ResourceServiceClient } from '#libs/rpc';
import { apiOf, type Client, clientWith } from './harness/client.js';
import { ConsoleClient } from './harness/console.js';
import { expectProblem } from './harness/expect-problem.js';
import { call, channelOf } from './harness/grpc.js';
import { type SecondReplica, startSecondReplica } from './harness/second-replica.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { goodClaims, signed } from './harness/tokens.js';
import { until } from './harness/until.js';

let stack: Stack;
let second: SecondReplica;
let api: Client;
let viewer: Client;
let machine: any;
const path = '/v1/instances/talker/console/attach';

beforeAll(async () => {
  stack = await stackNamed('unlucky', { driver: 'sim' });
  [api, viewer] = [await apiOf(stack), await apiOf(stack, 'acme', 'viewer')];
  second = await startSecondReplica(stack, 'second-for-consoles');
  await api.make('networks', { name: 'talk', subnet: '10.190.0.0/24', domain: 'talk.test' });
  machine = await api.make('instances', {
    name: 'talker',
    image: 'tiny',
    vcpus: 1,
    memoryMiB: 64,
    interfaces: [{ network: 'talk' }],
    tags: { role: 'talker' },
  });
}, 120_000);
afterAll(async () => {
  await api.remove('instances', 'talker');
  await api.remove('networks', 'talk');
  await second?.stop();
}, 60_000);

const open: ConsoleClient[] = [];
afterEach(() => {
  for (const client of open.splice(0)) client.close();
});

async function attach(base: string, client: Client, query = ''): Promise<ConsoleClient> {
  const attached = await ConsoleClient.attach(base, client.token, 'talker', query);
  open.push(attached);
  return attached;
}

const here = () => stack.dev.api;

describe('a console', () => {
  it('is watched by two from two replicas and typed into by one, then by the other', async () => {
    const typist = await attach(here(), api);
    const next = await attach(second.base, api);
    const watcher = await attach(second.base, viewer, '?watch=true');
    await until('the keyboard', () => typist.keyboard.includes(true));
    typist.type('echo one-said-this\r');
    for (const one of [typist, next, watcher])
      await until('what was typed', () => one.text.includes('\none-said-this\r'));
    next.type('echo nobody-hears-this\r');
    watcher.type('echo nor-this\r');
    await sleep(1_000); // What is typed counts where the keyboard is when it arrives.
    typist.close();
    await until('the keyboard of the next', () => next.keyboard.at(-1) === true);
    next.type('echo two-said-this\r');
    for (const one of [next, watcher]) await until('what was typed', () => one.text.includes('\ntwo-said-this\r'));
    expect(watcher.text).not.toMatch(/nobody-hears-this|nor-this/);
    expect([watcher.keyboard, typist.keyboard]).toEqual([[false], [true]]);
    const late = await attach(here(), viewer, '?watch=true');
    await until('the end of the log', () => late.text.includes('address=10.190.0.2'));
  }, 60_000);

  it('is not for those who may not type, not of what is off, and no plain request', async () => {
    expectProblem(await api.get(path), 426, 'upgrade_required');
    await expect(attach(here(), viewer)).rejects.toThrow('403');
    await expect(attach(here(), await apiOf(stack, 'globex'))).rejects.toThrow('404');
    await expect(attach(here(), clientWith(here(), 'nonsense'))).rejects.toThrow('401');
  });

  it('ends with its token', async () => {
    const claims = { ...goodClaims(stack, 'acme'), exp: Math.floor(Date.now() / 1000) + 2 };
    const token = await signed(stack, 'acme', claims);
    const brief = await ConsoleClient.attach(second.base, token, 'talker', '?watch=true');
    const lasting = await attach(second.base, api, '?watch=true');
    await until('the end', () => brief.code === 1008, 20_000);
    expect(brief.reason).toMatch(/^unauthenticated: /);
    expect(lasting.code).toBe(0);
  }, 30_000);

  it('ends when its machine is no longer among those that one may type into', async () => {
    await api.make('grants', {
      name: 'bob-talks',
      subject: { sub: 'bob' },
      verbs: ['read', 'console'],
      kinds: ['instance'],
      tagSelector: 'role=talker',
    });
    const token = await signed(stack, 'acme', {
      ...goodClaims(stack, 'acme'),
      sub: 'bob',
      realm_access: { roles: [] },
    });
    const typist = await attach(here(), clientWith(here(), token));
    await until('the keyboard', () => typist.keyboard.includes(true));
    const tagged = (role: string) => api.patch('/v1/instances/talker?wait=30s', { tags: { role } });
    expect((await tagged('quiet')).status).toBe(200);
    await until('the end', () => typist.code === 1008, 20_000);
    expect(typist.reason).toMatch(/^forbidden: /);
    expect((await tagged('talker')).status).toBe(200);
    await api.remove('grants', 'bob-talks');
  }, 60_000);

  it('ends with its machine, and is there again with it', async () => {
    const [typist, watcher] = [await attach(here(), api), await attach(second.base, viewer, '?watch=true')];
    await until('the keyboard', () => typist.keyboard.includes(true));
    typist.type('poweroff\r');
    for (const one of [typist, watcher]) {
      await until('the end', () => one.code !== 0);
      expect([one.code, one.reason]).toEqual([1000, expect.stringMatching(/^machine_off: /)]);
    }
    await until('it is off', async () => (await api.get('/v1/instances/talker')).body.powerState === 'stopped');
    await expect(attach(here(), api)).rejects.toThrow('409');
    expect((await api.post('/v1/instances/talker/start?wait=30s', {})).status).toBe(200);
    (await attach(here(), api)).close();
  }, 60_000);

  it('ends when its node goes away, and is there again with it', async () => {
    const watcher = await attach(second.base, api);
    const { pid } = stack.dev;
    process.kill(pid, 'SIGSTOP'); // Nobody starts the agent again.
    try {
      stack.kill('agent');
      await until('the end', () => watcher.code !== 0);
      expect([watcher.code, watcher.reason]).toEqual([1013, expect.stringMatching(/^node_unreachable: /)]);
      await until('the refusal', () =>
        attach(here(), api).then(
          (open) => open.close(),
          (error: Error) => error.message.includes('503'),
        ),
      );
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    const back = await until('the console', () => attach(here(), api).catch(() => undefined));
    back.close();
  }, 90_000);
});

/** What a network's router does for a guest: the line that says who asks, then the guest's own bytes. */
async function asGuest(method: string, url: string, body?: string): Promise<{ status: number; text: string }> {
  const socket = connect(join(stack.data, 'agent', 'metadata.sock'));
  socket.write(`${machine.interfaces[0].network} ${machine.interfaces[0].ip}\n`);
  const headers = { connection: 'close', host: '169.254.169.254', 'content-type': 'application/json' };
  const sent = request({ createConnection: () => socket, method, path: url, headers });
  sent.end(body);
  const [response] = await once(sent, 'response');
  let text = '';
  for await (const chunk of response) text += chunk;
  return { status: response.statusCode, text };
}

describe('what a machine is told and tells', () => {
  it('is its own identity, and the CA that the platform’s certificates are signed by', async () => {
    expect(JSON.parse((await asGuest('GET', '/v1/identity')).text)).toMatchObject({
      id: machine.id,
      name: 'talker',
      tenant: 'acme',
      tags: { role: 'talker' },
      interfaces: [{ ip: '10.190.0.2', gateway: '10.190.0.1', domain: 'talk.test' }],
    });
    expect((await asGuest('GET', '/v1/ca.pem')).text).toContain('BEGIN CERTIFICATE');
    expect((await asGuest('GET', '/latest/meta-data/instance-id')).text).toBe(machine.id);
  });

  it('is read by its users within seconds, as JSON and as Prometheus text, and written by them never', async () => {
    expect((await asGuest('POST', '/v1/metrics', '{"queue_length": 42}')).status).toBe(204);
    const channel = await channelOf(stack);
    const service = channel.client(ResourceServiceClient);
    const metrics = [{ name: 'backups', type: 'gauge', labels: { to: 'tape' }, value: 3 }];
    const report = { tenantId: 'acme', kind: 'instance', id: 'talker', metrics };
    await call((done) => service.reportMetrics(report, done));
    const wrong = { ...report, metrics: [{ ...metrics[0]!, name: '1' }] };
    await expect(call((done) => service.reportMetrics(wrong, done))).rejects.toMatchObject({ code: 3 });
    channel.close();
    const read = () => viewer.get('/v1/instances/talker/metrics');
    const { body } = await until('the metrics', async () => {
      const answer = await read();
      return answer.body.builtIn && answer.body.custom.length === 2 && answer;
    });
    const names = body.builtIn.metrics.map(({ name }: { name: string }) => name);
    expect(names).toEqual(expect.arrayContaining(['up', 'cpu_seconds_total', 'memory_bytes']));
    expect(body.custom).toMatchObject([
      { source: 'guest', metrics: [{ name: 'queue_length', value: 42 }] },
      { source: expect.stringMatching(/^service:/), metrics: [{ name: 'backups', labels: { to: 'tape' }, value: 3 }] },
    ]);
    const text = await viewer.get('/v1/instances/talker/metrics', { accept: 'text/plain' });
    expect(text.text).toContain(`queue_length{instance="${machine.id}",name="talker",source="guest"} 42\n`);
    expect(text.text).toMatch(/^rhyzome_instance_up\{instance="[^"]+",name="talker"\} 1$/m);
    expect([404, 405]).toContain((await api.post('/v1/instances/talker/metrics', {})).status);
    expectProblem(await (await apiOf(stack, 'globex')).get(`/v1/instances/${machine.id}/metrics`), 404, 'not_found');
  }, 60_000);
});
