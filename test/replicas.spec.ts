/** Servers that run twice: either answers for both, jobs and events are shared, and one may die without a word. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { apiOf, type Client, clientWith } from './harness/client.js';
import { EventStream } from './harness/events.js';
import { expectProblem } from './harness/expect-problem.js';
import { type SecondReplica, startSecondReplica } from './harness/second-replica.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { until } from './harness/until.js';

let stack: Stack;
let base: string;
let one: Client;
let two: Client;
let replica: SecondReplica;

beforeAll(async () => {
  stack = await stackNamed('unlucky', { driver: 'sim' });
  one = await apiOf(stack, 'acme');
  replica = await startSecondReplica(stack);
  base = replica.base;
  two = clientWith(base, one.token);
}, 120_000);

afterAll(() => replica?.stop(), 60_000);

describe('two of each server', () => {
  it('take the pieces of one upload, whichever gets them', async () => {
    const image = (await one.post('/v1/images', { name: 'in-pieces', format: 'raw' })).body;
    const path = `/v1/images/${image.id}/content`;
    const piece = (api: Client, first: number, last: number) =>
      api.call('PUT', `${path}?wait=30s`, {
        raw: new Uint8Array(last - first + 1).fill(first % 251),
        headers: { 'content-type': 'application/octet-stream', 'content-range': `bytes ${first}-${last}/3000` },
      });
    expect((await piece(one, 0, 999)).status).toBe(200);
    expect((await two.call('HEAD', path)).headers.get('upload-offset')).toBe('1000');
    expect((await piece(two, 1000, 1999)).status).toBe(200);
    expect((await piece(one, 2000, 2999)).body).toMatchObject({
      state: 'ready',
      sizeBytes: 3000,
      job: { state: 'succeeded' },
    });
    await two.remove('images', image.id);
  });

  it('share what one of them was told, its conditions and its answers', async () => {
    const made = await one.make('networks', { name: 'shared', subnet: '10.170.0.0/24' });
    const seen = await two.get('/v1/networks/shared');
    expect(seen.body).toMatchObject({ id: made.id, state: 'ready' });
    expect(seen.headers.get('etag')).toBe((await one.get('/v1/networks/shared')).headers.get('etag'));
    const key = { 'idempotency-key': `both-${Date.now()}` };
    const body = { name: 'both', subnet: '10.171.0.0/29' };
    const answers = await Promise.all([one, two, one, two].map((api) => api.post('/v1/networks', body, key)));
    const taken = answers.filter(({ status }) => status === 202);
    expect(new Set(taken.map(({ body: { id } }) => id)).size).toBe(1);
    for (const answer of answers) if (answer.status !== 202) expectProblem(answer, 409, 'idempotency_in_progress');
    const again = await two.post('/v1/networks', body, key);
    expect([again.headers.get('idempotency-replayed'), again.body.id]).toEqual(['true', taken[0]!.body.id]);
    await two.get(`/v1/jobs/${again.body.job.id}?wait=30s`);
    await two.remove('networks', 'both');
    const { nextPageToken } = (await one.get('/v1/jobs?pageSize=1')).body;
    expect((await two.get(`/v1/jobs?pageSize=1&pageToken=${encodeURIComponent(nextPageToken)}`)).status).toBe(200);
  }, 60_000);

  it('relay a console from whichever holds the node', async () => {
    const machine = { name: 'relayed', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'shared' }] };
    await two.make('instances', machine);
    for (const api of [one, two])
      expect((await api.get('/v1/instances/relayed/console')).text).toContain('address=10.170.0.2');
  }, 60_000);

  it('do each job once, also when one of them dies, and tell the same events', async () => {
    const streams = await Promise.all([EventStream.open(stack.dev.api, one), EventStream.open(base, two)]);
    const names = Array.from({ length: 30 }, (_, n) => `twice-${n}`);
    const made = await Promise.all(
      names.map((name, n) => (n % 2 ? one : two).post('/v1/networks', { name, subnet: `10.172.${n}.0/29` })),
    );
    replica.children.grpc.kill('SIGKILL');
    for (const { body } of made) {
      const job = await one.get(`/v1/jobs/${body.job.id}?wait=30s`);
      expect(job.body).toMatchObject({ state: 'succeeded', attempts: 1 });
    }
    const ends = ({ seen }: EventStream) =>
      seen.flatMap(({ data }) => (data.job?.state === 'succeeded' ? data.job.id : []));
    for (const stream of streams) await until('all ends', () => ends(stream).length >= names.length);
    await Promise.all(names.map((name, n) => (n % 2 ? two : one).remove('networks', name)));
    const isLast = (stream: EventStream) =>
      until('all removals', () => stream.seen.filter(({ type }) => type === 'resource.deleted').length >= names.length);
    await Promise.all(streams.map(isLast));
    const [first, second] = streams.map(({ seen }) => seen.map(({ id }) => id));
    const both = Math.min(first!.length, second!.length);
    expect(first!.slice(0, both)).toEqual(second!.slice(0, both));
    expect(new Set(ends(streams[0]!)).size).toBe(ends(streams[0]!).length);
    await Promise.all(streams.map((stream) => stream.close()));
    await one.remove('instances', 'relayed');
    await one.remove('networks', 'shared');
  }, 90_000);
});
