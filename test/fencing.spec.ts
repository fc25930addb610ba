/**
 * Workers that lose their jobs in the middle: one that stood still for longer than its lease writes nothing when it wakes,
 * whether it stood in work outside or in a transaction; the jobs of a killed one go on elsewhere within ten seconds.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectionOf } from '#libs/config';
import { Database, type Tx } from '#libs/db';
import { apiOf, type Client, clientWith } from './harness/client.js';
import { apiReplica, grpcReplica, type Replica } from './harness/replica.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

const TENANT = 'acme';
let stack: Stack;
let db: Database;
let api: Client;
let servers: Replica[] = [];
let one: Replica;
let two: Replica;
let source: SlowSource;

/** Gives the content to everybody but the first who asks for a path: who gets its first bytes, and nothing more. */
class SlowSource {
  readonly asked = new Map<string, number>();
  private readonly server: Server;

  constructor(private readonly content: Buffer) {
    this.server = createServer((request, response) => this.answer(request, response)).listen(0, '127.0.0.1');
  }

  get sha256(): string {
    return createHash('sha256').update(this.content).digest('hex');
  }

  url(path: string): string {
    return `http://127.0.0.1:${(this.server.address() as AddressInfo).port}${path}`;
  }

  times(path: string): number {
    return this.asked.get(path) ?? 0;
  }

  close(): void {
    this.server.closeAllConnections();
    this.server.close();
  }

  private answer({ url = '' }: IncomingMessage, response: ServerResponse): void {
    this.asked.set(url, this.times(url) + 1);
    response.writeHead(200, { 'content-length': this.content.length });
    if (this.times(url) > 1) response.end(this.content);
    else response.write(this.content.subarray(0, 512));
  }
}

beforeAll(async () => {
  stack = await stackNamed('fencing', { driver: 'sim', tenants: [TENANT] });
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const connection = (name: string) => connectionOf(settings[name], stack.data);
  db = new Database({ app: connection('db'), operator: connection('dbOperator'), maxConnections: 3 });
  source = new SlowSource(Buffer.alloc(64 * 1024, 7));
  const options = { allowedSources: ['127.0.0.1/32'] };
  [one, two] = [await grpcReplica(stack, 'one', options), await grpcReplica(stack, 'two', options)];
  const rest = await apiReplica(stack, 'rest', options);
  servers = [one, two, rest];
  await Promise.all(servers.map((server) => server.start()));
  api = clientWith(rest.base, (await apiOf(stack, TENANT)).token);
  // Jobs are those replicas' alone.
  process.kill(stack.pid('grpc'), 'SIGSTOP');
}, 300_000);

afterAll(async () => {
  if (stack) process.kill(stack.pid('grpc'), 'SIGCONT');
  await Promise.all(servers.map((server) => server.end()));
  source?.close();
  await db?.close();
}, 60_000);

/** All that there is of a job and its resource, with the transactions that wrote it. */
async function rowsOf(job: string, resource: string): Promise<unknown> {
  return db.operatorTransaction(async (tx) => {
    const of = async (table: string, column: string, id: string) =>
      (
        await sql`select t.xmin::text as writer, to_jsonb(t) as row from ${sql.table(table)} t
        where ${sql.ref(column)} = ${id} order by t::text`.execute(tx)
      ).rows;
    return {
      job: await of('job', 'id', job),
      steps: await of('job_step', 'job_id', job),
      resource: await of('resource', 'id', resource),
      placements: await of('placement', 'resource_id', resource),
    };
  });
}

async function jobOf(id: string) {
  return db.operator.selectFrom('job').selectAll().where('id', '=', id).executeTakeFirstOrThrow();
}

/** A job that `one` runs, and that has come to where the source keeps it. */
async function fetching(name: string): Promise<{ job: string; image: string; path: string }> {
  const path = `/${name}`;
  two.signal('SIGSTOP');
  const asked = { name, format: 'raw', sourceUrl: source.url(path), sha256: source.sha256 };
  const { body, text } = await api.post('/v1/images', asked);
  expect(body.job, text).toBeDefined();
  await until('the first fetch', () => source.times(path) === 1);
  return { job: body.job.id, image: body.id, path };
}

async function succeeded(job: string): Promise<void> {
  const { body } = await api.get(`/v1/jobs/${job}?wait=60s`);
  expect(body, JSON.stringify(body.error)).toMatchObject({ state: 'succeeded', attempts: 1 });
}

describe('a worker that stands still for longer than its lease', () => {
  it('writes nothing when it wakes, and says that the job is no longer its own', async () => {
    const { job, image, path } = await fetching('paused');
    const { fence } = await jobOf(job);
    one.signal('SIGSTOP');
    two.signal('SIGCONT');
    await until('the second fetch', () => source.times(path) === 2, 60_000);
    await succeeded(job);
    const before = await rowsOf(job, image);
    expect((await jobOf(job)).fence).toBeGreaterThan(fence);
    one.signal('SIGCONT');
    await one.logged('the job is no longer ours');
    expect(one.lines('the job is no longer ours').at(-1)).toMatchObject({ job });
    expect(await rowsOf(job, image)).toEqual(before);
  }, 120_000);

  it('in the middle of a transaction keeps nothing locked, and what it had not committed is not there', async () => {
    for (const worker of [one, two]) worker.signal('SIGSTOP');
    const { body } = await api.post('/v1/networks', { name: 'locked', subnet: '10.1.0.0/24' });
    const { id } = body;
    const job = body.job.id;
    await holding(id, async () => {
      one.signal('SIGCONT');
      // Its first transaction waits for the resource.
      await until('a claim', async () => (await jobOf(job)).lease_owner !== null);
      await until('a transaction that waits', async () => (await waitingForLocks()) > 0);
      one.signal('SIGSTOP');
    });
    two.signal('SIGCONT');
    await succeeded(job);
    const before = await rowsOf(job, id);
    one.signal('SIGCONT');
    await one.logged('the database went away; the job goes on after its lease');
    expect(await rowsOf(job, id)).toEqual(before);
  }, 120_000);
});

/** Runs `work` while the resource's row is locked. */
function holding(id: string, work: () => Promise<void>): Promise<void> {
  return db.operatorTransaction(async (tx: Tx) => {
    await sql`select from resource where id = ${id} for update`.execute(tx);
    await work();
  });
}

async function waitingForLocks(): Promise<number> {
  const { rows } = await sql<{ n: number }>`
    select count(*)::int as n from pg_locks where not granted`.execute(db.operator);
  return rows[0]!.n;
}

describe('the jobs of a killed worker', () => {
  it('go on elsewhere within ten seconds', async () => {
    const { job } = await fetching('killed');
    const { fence } = await jobOf(job);
    two.signal('SIGCONT');
    await one.kill();
    const killed = performance.now();
    await until('another claim', async () => (await jobOf(job)).fence > fence, 60_000, 20);
    const seconds = (performance.now() - killed) / 1_000;
    console.log(`claimed anew ${seconds.toFixed(1)} s after the kill`);
    expect(seconds).toBeLessThan(10);
    await succeeded(job);
  }, 120_000);
});
