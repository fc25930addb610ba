/**
 * Replicas of both servers are added and removed, again and again, while clients work: with SIGTERM not one request fails and
 * no job is lost or kept waiting for a lease; a node goes from replica to replica; watchers see each event once and in order.
 */
import * as grpc from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fixedCredentials, loadCredentials } from '#libs/pki';
import { createChannel, type GetResponse, ResourceServiceClient, type RpcChannel } from '#libs/rpc';
import { apiOf, type Client } from './harness/client.js';
import { call } from './harness/grpc.js';
import { apiReplica, grpcReplica, type Replica, simNode } from './harness/replica.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { newTally } from './harness/steady-client.js';
import { SteadyUser } from './harness/steady-user.js';
import { until } from './harness/until.js';
import { Watcher } from './harness/watcher.js';

const ROUNDS = 2;
const USERS = 3;

let stack: Stack;
let api: Client;
let token: string;
let apis: Replica[];
let grpcs: Replica[];
let node: Replica;
let isOver: boolean;

beforeAll(async () => {
  stack = await stackNamed('rolling', { driver: 'sim', tenants: ['acme'] });
  api = await apiOf(stack);
  token = api.token;
  apis = await Promise.all(['api-a', 'api-b'].map((name) => apiReplica(stack, name)));
  grpcs = await Promise.all(['grpc-a', 'grpc-b'].map((name) => grpcReplica(stack, name)));
  node = await simNode(stack, 'node2', grpcs);
  await Promise.all([...apis, ...grpcs].map((replica) => replica.start()));
  node.launch();
  await node.logged('connected');
}, 300_000);

afterAll(() => Promise.all([node, ...apis, ...grpcs].map((replica) => replica?.end())), 60_000);

const bases = () => apis.map(({ base }) => base);

/** A service that asks over gRPC, and asks the next replica where one refuses the connection. Gives what failed besides. */
async function service(tally: { calls: number }): Promise<string[]> {
  const credentials = fixedCredentials(await loadCredentials(stack.dev.pki));
  const channels = grpcs.map(({ address }) => createChannel({ target: address, serverName: 'localhost', credentials }));
  const clients = channels.map((channel: RpcChannel) => channel.client(ResourceServiceClient));
  const { id } = await api.make('networks', { name: 'asked-for', subnet: '10.59.0.0/29' });
  const request = { tenantId: 'acme', kind: 'network', id };
  const failures: string[] = [];
  for (let at = 0; !isOver; ) {
    try {
      const { resource } = await call<GetResponse>((back) => clients[at % 2]!.get(request, back));
      if (resource?.id !== id) failures.push('another answer');
      tally.calls += 1;
    } catch (error) {
      const { code, details } = error as grpc.ServiceError;
      const isRefused = code === grpc.status.UNAVAILABLE && /ECONNREFUSED|No connection established/.test(details);
      if (!isRefused) failures.push(`${code} ${details}`);
      at += 1;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  for (const channel of channels) channel.close();
  await api.remove('networks', 'asked-for');
  return failures;
}

describe('replicas that come and go', () => {
  it('fail no request when they are asked to end', async () => {
    isOver = false;
    const tally = newTally();
    const calls = { calls: 0 };
    const watcher = await Watcher.start(bases, api);
    const user = (n: number) => new SteadyUser(n, bases, token, tally).run(() => isOver);
    const users = Promise.all(Array.from({ length: USERS }, (_, n) => user(n)));
    const services = service(calls);
    const statuses: (number | null)[] = [];
    for (let round = 0; round < ROUNDS; round += 1) {
      for (const turn of [0, 1]) {
        const [oneApi, oneGrpc] = [apis[turn]!, grpcs[turn]!];
        statuses.push(...(await Promise.all([oneApi.end(), oneGrpc.end()])));
        await Promise.all([oneApi.start(), oneGrpc.start()]);
      }
    }
    isOver = true;
    expect((await users).flat()).toEqual([]);
    expect(await services).toEqual([]);
    expect(tally).toMatchObject({ failures: [], cut: [] });
    expect(statuses).toEqual(statuses.map(() => 0));
    expect(tally.requests).toBeGreaterThan(100);
    expect(calls.calls).toBeGreaterThan(100);
    const jobs = await pages('/v1/jobs');
    expect(jobs.filter(({ state }) => state !== 'succeeded')).toEqual([]);
    expect(jobs.filter(({ attempts }) => attempts !== 1)).toEqual([]);
    expect(grpcs.map(({ log }) => log).join('')).not.toContain('goes on after its lease');
    const controllers = node.lines('connected').map(({ controller }) => controller);
    expect(new Set(controllers)).toEqual(new Set(grpcs.map(({ address }) => address)));
    const last = jobs
      .map(({ id }) => id)
      .sort()
      .at(-1);
    await until('the last event', () => watcher.seen.some(({ data }) => data.job?.id === last && data.job.finishedAt));
    await watcher.stop();
    expect(watcher.faults).toEqual([]);
    expect(watcher.opened).toBeGreaterThan(ROUNDS);
    console.info(
      `${tally.requests} requests (${tally.refused} connections refused), ${calls.calls} calls, ${jobs.length} jobs, ` +
        `${watcher.seen.length} events over ${watcher.opened} streams; ${statuses.length} replicas ended`,
    );
  }, 600_000);
});

async function pages(path: string): Promise<any[]> {
  const all: any[] = [];
  for (let token = ''; ; ) {
    const { body } = await api.get(`${path}?pageSize=500${token && `&pageToken=${encodeURIComponent(token)}`}`);
    all.push(...body.items);
    token = body.nextPageToken ?? '';
    if (!token) return all;
  }
}
