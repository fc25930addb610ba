/**
 * One of several replicas is lost without a word: killed, stopped for longer than its leases, cut from the database. What was
 * accepted before and meanwhile is done, once; whoever asks again is answered by the others; its node goes to another.
 */
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { fixedCredentials, loadCredentials } from '#libs/pki';
import { createChannel, type GetResponse, ResourceServiceClient } from '#libs/rpc';
import { Cable } from './harness/cable.js';
import { apiOf, type Client } from './harness/client.js';
import { call } from './harness/grpc.js';
import { apiReplica, grpcReplica, type Replica, simNode } from './harness/replica.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

const USERS = 3;
const BETWEEN_MS = 100;
/** After which a careful program asks another replica. */
const PATIENCE_MS = 5_000;
/** Longer than a lease (8 s); one that stands still is lost for longer: an agent waits for 15 s for a silent stream. */
const LOST_MS = 12_000;

let stack: Stack;
let api: Client;
/** The one that stays, then the one that is lost. */
let apis: Replica[];
let grpcs: Replica[];
let cables: Cable[];
let node: Replica;
let asked: { tenantId: string; kind: string; id: string };

beforeAll(async () => {
  stack = await stackNamed('lost', { driver: 'sim', tenants: ['acme'] });
  api = await apiOf(stack);
  const database = new URL(JSON.parse(readFileSync(stack.dev.config, 'utf8')).db);
  cables = await Promise.all([0, 1].map(() => Cable.lay(database.hostname, Number(database.port))));
  const behind = (n: number) => ({ databaseAt: cables[n]!.address });
  apis = [await apiReplica(stack, 'api-a'), await apiReplica(stack, 'api-b', behind(0))];
  grpcs = [await grpcReplica(stack, 'grpc-a'), await grpcReplica(stack, 'grpc-b', behind(1))];
  node = await simNode(stack, 'node2', grpcs);
  await Promise.all([...apis, ...grpcs].map((replica) => replica.start()));
  const { id } = await api.make('networks', { name: 'asked-for', subnet: '10.250.0.0/29' });
  asked = { tenantId: 'acme', kind: 'network', id };
}, 300_000);

afterAll(async () => {
  await Promise.all([node, ...(apis ?? []), ...(grpcs ?? [])].map((replica) => replica?.end()));
  await Promise.all((cables ?? []).map((cable) => cable.remove()));
}, 60_000);

interface Tally {
  /** Of each request that was accepted: what it makes, and its job. */
  accepted: { name: string; job: string }[];
  calls: number;
  /** Asked again elsewhere: no answer, a broken connection, or “not now”. */
  again: number;
  unexpected: string[];
}

/** Makes networks, one after the other; each request goes on with its key until somebody accepts it. */
async function user(n: number, prefix: string, tally: Tally, isOver: () => boolean): Promise<void> {
  // Two of three begin at the one that is lost.
  for (let turn = 0, at = n + 1; !isOver(); turn += 1) {
    const name = `${prefix}-${n}-${turn}`;
    const key = randomUUID();
    const body = JSON.stringify({ name, subnet: `10.${n}.${turn % 250}.0/29` });
    for (;;) {
      const answer = await post(apis[at % apis.length]!, body, key);
      if (answer?.status === 202) {
        tally.accepted.push({ name, job: answer.job });
        break;
      }
      const isNotNow = answer === undefined || answer.status >= 500 || answer.code === 'idempotency_in_progress';
      if (!isNotNow) {
        tally.unexpected.push(`${name}: ${answer.status} ${answer.code}`);
        break;
      }
      tally.again += 1;
      at += 1;
      await new Promise((resolve) => setTimeout(resolve, BETWEEN_MS));
    }
    await new Promise((resolve) => setTimeout(resolve, BETWEEN_MS));
  }
}

/** Undefined: there was no answer. */
async function post(to: Replica, body: string, key: string) {
  const headers = { authorization: `Bearer ${api.token}`, 'content-type': 'application/json', 'idempotency-key': key };
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const answer = await fetch(`${to.base}/v1/networks`, { method: 'POST', headers, body, signal });
    const read = (await answer.json()) as { job?: { id: string }; code?: string };
    return { status: answer.status, job: read.job?.id ?? '', code: read.code };
  } catch {
    return undefined; // Whatever broke: it is asked again.
  }
}

/** Asks over gRPC; each question goes on until one replica answers it, and the answer must be right. */
async function service(tally: Tally, isOver: () => boolean): Promise<void> {
  const credentials = fixedCredentials(await loadCredentials(stack.dev.pki));
  const channels = grpcs.map(({ address }) =>
    createChannel({ target: address, serverName: 'localhost', credentials, timeoutMs: PATIENCE_MS }),
  );
  const clients = channels.map((channel) => channel.client(ResourceServiceClient));
  for (let at = 1; !isOver(); ) {
    try {
      const { resource } = await call<GetResponse>((back) => clients[at % clients.length]!.get(asked, back));
      if (resource?.id !== asked.id) tally.unexpected.push('another answer');
      tally.calls += 1;
    } catch {
      tally.again += 1;
      at += 1;
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  for (const channel of channels) channel.close();
}

const connected = () => node.lines('connected').map(({ controller }) => controller as string);

/** Whom an agent dials first is chance. */
async function withTheOneThatIsLost(): Promise<void> {
  for (;;) {
    const before = connected().length;
    node.launch();
    await node.logged('connected', before + 1);
    if (connected().at(-1) === grpcs[1]!.address) return;
    await node.kill();
  }
}

const troubles: [what: string, lose: () => Promise<void>, back: () => Promise<void>][] = [
  [
    'killed',
    async () => {
      await Promise.all([apis[1]!.kill(), grpcs[1]!.kill()]);
    },
    async () => {
      await Promise.all([apis[1]!.start(), grpcs[1]!.start()]);
    },
  ],
  [
    'stopped',
    async () => {
      for (const replica of [apis[1]!, grpcs[1]!]) replica.signal('SIGSTOP');
    },
    async () => {
      for (const replica of [apis[1]!, grpcs[1]!]) replica.signal('SIGCONT');
    },
  ],
  [
    'cut',
    async () => {
      for (const cable of cables) cable.cut();
    },
    async () => {
      for (const cable of cables) cable.mend();
    },
  ],
];

it.each(troubles)(
  'nothing that was accepted is lost with replicas that are %s',
  async (what, lose, back) => {
    await withTheOneThatIsLost();
    const tally: Tally = { accepted: [], calls: 0, again: 0, unexpected: [] };
    let isOver = false;
    const over = () => isOver;
    const users = Array.from({ length: USERS }, (_, n) => user(n, what, tally, over));
    const all = Promise.all([...users, service(tally, over)]);
    await until('all work', () => tally.accepted.length > 15 && tally.calls > 15);
    const [acceptedBefore, callsBefore] = [tally.accepted.length, tally.calls];
    await lose();
    const lostAt = Date.now();
    const streams = connected().length;
    await until('the node is with the other', () => connected().slice(streams).includes(grpcs[0]!.address), 90_000);
    const movedMs = Date.now() - lostAt;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, LOST_MS - movedMs)));
    const [acceptedMeanwhile, callsMeanwhile] = [tally.accepted.length - acceptedBefore, tally.calls - callsBefore];
    await back();
    await Promise.all([apis[1]!, grpcs[1]!].map((replica) => replica.ready()));
    isOver = true;
    await all;

    expect(tally.unexpected).toEqual([]);
    expect(acceptedMeanwhile).toBeGreaterThan(10);
    expect(callsMeanwhile).toBeGreaterThan(10);
    expect(tally.again).toBeGreaterThan(0);
    const spans: number[] = [];
    for (const { name, job } of tally.accepted) {
      const { body } = await api.get(`/v1/jobs/${job}?wait=30s`);
      expect(body, name).toMatchObject({ state: 'succeeded', error: null });
      spans.push(Date.parse(body.finishedAt) - Date.parse(body.createdAt));
    }
    // Each once: what was asked again made no other.
    const made = (await pages('/v1/jobs')).filter(
      ({ resource, action }) => action === 'create' && resource.name.startsWith(`${what}-`),
    );
    expect(made.map(({ id }) => id).sort()).toEqual(tally.accepted.map(({ job }) => job).sort());
    expect(Math.max(...spans)).toBeLessThan(LOST_MS + 20_000);
    await node.kill();
    console.info(
      `${what}: ${tally.accepted.length} requests accepted (${acceptedMeanwhile} meanwhile) and ${tally.calls} gRPC calls ` +
        `(${callsMeanwhile}), ${tally.again} asked again; all jobs succeeded, the longest after ${(Math.max(...spans) / 1000).toFixed(1)} s; ` +
        `the node was with the other after ${(movedMs / 1000).toFixed(1)} s`,
    );
  },
  240_000,
);

async function pages(path: string): Promise<any[]> {
  const all: any[] = [];
  for (let token = ''; ; ) {
    const { body } = await api.get(`${path}?pageSize=500${token && `&pageToken=${encodeURIComponent(token)}`}`);
    all.push(...body.items);
    token = body.nextPageToken ?? '';
    if (!token) return all;
  }
}
