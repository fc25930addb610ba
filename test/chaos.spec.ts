/**
 * Many users who change the same few things at once while machines fail and processes die. Whatever comes of each
 * request, in the end what users see, what the node has and what is taken of addresses and room are the same.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, it } from 'vitest';
import { type Answer, apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { clearFaults, injectFaults } from './harness/faults.js';
import { rhyzome } from './harness/grpc.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

let stack: Stack;
let api: Client;
beforeAll(async () => {
  stack = await stackNamed('unlucky', { driver: 'sim' });
  api = await apiOf(stack, 'initech');
}, 120_000);

const chaosMs = 12_000;
const networks = ['red', 'blue'];
const machines = ['one', 'two', 'three', 'four', 'five', 'six'];
const pick = <T>(list: readonly T[]): T => list[Math.floor(Math.random() * list.length)] as T;

/** What a user may do next; its answer is a 2xx or a 4xx. */
function anything(): Promise<Answer> {
  const name = pick(machines);
  const at = `/v1/instances/${name}`;
  return pick([
    () => api.post('/v1/networks', { name: pick(networks), subnet: '10.150.0.0/29' }),
    () => api.delete(`/v1/networks/${pick(networks)}`),
    () => api.patch(`/v1/networks/${pick(networks)}`, { tags: { at: String(Date.now()) } }),
    ...Array.from({ length: 4 }, () => () => {
      const interfaces = [{ network: pick(networks) }];
      return api.post('/v1/instances', { name, image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces });
    }),
    () => api.patch(at, { desiredPowerState: pick(['running', 'stopped']), tags: { at: String(Date.now()) } }),
    () => api.post(`${at}/${pick(['start', 'stop', 'reboot'])}`, {}),
    () => api.delete(at),
    () => api.delete(at),
    () => changeJob(),
  ])();
}

async function changeJob(): Promise<Answer> {
  const jobs = await api.get('/v1/jobs?sort=-createdAt&pageSize=5');
  const id = pick<any>(jobs.body?.items ?? [])?.id;
  return id ? api.post(`/v1/jobs/${id}/${pick(['cancel', 'retry'])}`, {}) : jobs;
}

/** One user: does this and that until the time is up. Gives how often which status was answered. */
async function user(end: number, statuses: Map<number, number>): Promise<void> {
  while (Date.now() < end) {
    try {
      const answer = await anything();
      statuses.set(answer.status, (statuses.get(answer.status) ?? 0) + 1);
      if (answer.status >= 400) expectProblem(answer, answer.status, answer.body?.code);
    } catch (error) {
      // The server was killed just now.
      if (!(error instanceof TypeError)) throw error;
    }
    await sleep(20);
  }
}

const items = async (path: string): Promise<any[]> => (await api.get(path)).body.items;

function onNode(): { networks: [string, any][]; instances: [string, any][] } {
  return JSON.parse(readFileSync(join(stack.data, 'agent', 'sim-state.json'), 'utf8'));
}

async function quiet(): Promise<void> {
  let open: unknown[] = [];
  await until(
    'the end of all jobs',
    async () => {
      open = (await items('/v1/jobs?pageSize=500&sort=-createdAt')).filter(({ finishedAt }) => finishedAt === null);
      return open.length === 0;
    },
    60_000,
    200,
  ).catch((error: Error) => {
    throw new Error(`${error.message}; open are ${JSON.stringify(open)}`);
  });
}

it('what is seen, what is there and what is taken agree after anything', async () => {
  injectFaults(stack, [
    { kind: 'instance', operation: 'apply', match: 'two', code: 'no_luck', permanent: true },
    { kind: 'instance', operation: 'apply', match: 't*', times: 5, code: 'not_now' },
    { kind: 'instance', operation: 'remove', times: 5, code: 'not_now' },
    { kind: 'instance', operation: 'apply', match: 'four', delayMs: 300 },
    { kind: 'instance', operation: 'operate', match: 'five', delayMs: 200 },
    { kind: 'network', operation: 'remove', times: 3, code: 'not_now' },
    { kind: 'instance', operation: 'shutdown', match: 'six', times: 3 },
  ]);
  const statuses = new Map<number, number>();
  const end = Date.now() + chaosMs;
  const users = Promise.all(Array.from({ length: 6 }, () => user(end, statuses)));
  for (const victim of ['grpc', 'agent', 'api'] as const) {
    await sleep(chaosMs / 4);
    const before = stack.kill(victim);
    await stack.restarted(victim, before);
  }
  await users;
  expect([...statuses.keys()].filter((status) => status >= 500 && status !== 503)).toEqual([]);
  expect(statuses.get(202)).toBeGreaterThan(10);
  clearFaults(stack);
  await until('an answer', () =>
    api
      .get('/v1/jobs')
      .then(({ status }) => status === 200)
      .catch(() => false),
  );
  await quiet();

  const instances = await items('/v1/instances');
  for (const { state, desiredPowerState, powerState, name } of instances) {
    expect(['ready', 'failed']).toContain(state);
    if (state === 'ready') {
      await until(`${name} as wanted (${desiredPowerState}, not ${powerState})`, async () => {
        const { body } = await api.get(`/v1/instances/${name}`);
        return body.powerState === body.desiredPowerState;
      });
    }
  }
  const standing = instances.filter(({ state }) => state === 'ready').map(({ id }) => id);
  await until('the node has what is ready, and no more', () => {
    const ids = onNode().instances.map(([id]) => id);
    return JSON.stringify(ids.sort()) === JSON.stringify(standing.sort());
  });
  for (const network of await items('/v1/networks')) {
    const leases = await items(`/v1/networks/${network.name}/leases?pageSize=500`);
    const addresses = instances.flatMap(({ id, interfaces }) =>
      interfaces.flatMap((one: any) => (one.network === network.id ? [`${id} ${one.ip}`] : [])),
    );
    expect(leases.map(({ instance, ip }) => `${instance} ${ip}`).sort()).toEqual(addresses.sort());
    expect(network.addresses.used).toBe(leases.length);
  }

  await Promise.all(instances.map(({ id }) => api.remove('instances', id)));
  for (const { id } of await items('/v1/networks')) await api.remove('networks', id);
  await quiet();
  const ours = ([, { ref }]: [string, any]) => ref.tenantId === 'initech';
  await until('an empty node', () => [...onNode().instances, ...onNode().networks].filter(ours).length === 0);
  const node = await rhyzome(stack, 'node', 'show', 'node1');
  expect(node).toMatchObject({ placed: 0, reserved: { vcpus: 0, memoryMiB: 0, diskGiB: 0 } });
}, 180_000);
