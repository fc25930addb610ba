/** What a user follows their resources by: lists, events and the audit trail. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, apiOf, type Client } from './harness/client.js';
import { EventStream } from './harness/events.js';
import { expectProblem } from './harness/expect-problem.js';
import { type Stack, sharedStack } from './harness/stack.js';
import { until } from './harness/until.js';

let stack: Stack;
let api: Client;
beforeAll(async () => {
  stack = await sharedStack('sim');
  // A tenant that no other suite uses, so that lists hold what is made here and nothing else.
  api = await apiOf(stack, 'initech');
}, 120_000);

const names = (answer: Answer) => answer.body.items.map(({ name }: any) => name);
const ended = async (answer: Answer) => (await api.get(`/v1/jobs/${answer.body.job.id}?wait=30s`)).body;

describe('a list', () => {
  const count = 120;
  const nameOf = (n: number) => `page-${String(n).padStart(3, '0')}`;
  beforeAll(async () => {
    const jobs: Answer[] = [];
    for (let at = 0; at < count; at += 20) {
      const some = Array.from({ length: 20 }, (_, n) => at + n);
      jobs.push(
        ...(await Promise.all(
          some.map((n) =>
            api.post('/v1/networks', {
              name: nameOf(n),
              subnet: `10.100.${n}.0/29`,
              tags: { parity: n % 2 === 0 ? 'even' : 'odd', ...(n % 10 === 0 && { ten: '' }) },
            }),
          ),
        )),
      );
    }
    for (const job of jobs) expect(await ended(job)).toMatchObject({ state: 'succeeded' });
  }, 120_000);
  afterAll(async () => {
    for (let at = 0; at < count; at += 20)
      await Promise.all(Array.from({ length: 20 }, (_, n) => api.remove('networks', nameOf(at + n))));
    expect((await api.get('/v1/networks')).body.items).toEqual([]);
  }, 120_000);

  it('gives every one once over its pages, and the way to the next', async () => {
    const seen: string[] = [];
    let pages = 0;
    for (let path: string | undefined = '/v1/networks?pageSize=50&sort=-name&count=true'; path; pages += 1) {
      const answer: Answer = await api.get(path);
      expect(answer.body.totalCount).toBe(count);
      seen.push(...names(answer));
      const link = answer.headers.get('link');
      path = link === null ? undefined : /^<([^>]+)>; rel="next"$/.exec(link)?.[1];
      expect(path === undefined).toBe(answer.body.nextPageToken === null);
    }
    expect(pages).toBe(3);
    expect(seen).toEqual(Array.from({ length: count }, (_, n) => nameOf(count - 1 - n)));
    expect(names(await api.get('/v1/networks'))).toHaveLength(50);
    expect(names(await api.get('/v1/networks?pageSize=9999'))).toHaveLength(count);
    expect(names(await api.get('/v1/networks?sort=createdAt&pageSize=1'))).toHaveLength(1);
  });

  it('takes a page token for the query that it came from only, and of its own tenant', async () => {
    const { nextPageToken } = (await api.get('/v1/networks?pageSize=5&sort=name')).body;
    const token = encodeURIComponent(nextPageToken);
    expect(names(await api.get(`/v1/networks?pageSize=2&sort=name&pageToken=${token}`))).toEqual([
      nameOf(5),
      nameOf(6),
    ]);
    const flipped = encodeURIComponent(
      nextPageToken.slice(0, -2) + (nextPageToken.at(-2) === 'A' ? 'B' : 'A') + nextPageToken.at(-1),
    );
    for (const query of [
      `sort=-name&pageToken=${token}`,
      `pageToken=${token}`,
      `sort=name&tagSelector=ten&pageToken=${token}`,
      `sort=name&pageToken=${flipped}`,
      `sort=name&pageToken=${token}x`,
    ])
      expectProblem(await api.get(`/v1/networks?${query}`), 422, 'invalid', 'pageToken');
    expectProblem(await api.get(`/v1/instances?sort=name&pageToken=${token}`), 422, 'invalid', 'pageToken');
    const other = await apiOf(stack, 'acme');
    expectProblem(await other.get(`/v1/networks?sort=name&pageToken=${token}`), 422, 'invalid', 'pageToken');
  });

  it.each([
    ['parity=even', 60],
    ['parity!=even', 60],
    ['parity in (even, odd)', 120],
    ['parity notin (even)', 60],
    ['ten', 12],
    ['!ten', 108],
    ['ten=', 12],
    ['ten,parity=odd', 0],
    ['!ten,parity=even', 48],
    ['nothing', 0],
    ['nothing!=x', 120],
  ])('selects by tags: %s', async (selector, expected) => {
    const answer = await api.get(`/v1/networks?count=true&pageSize=500&tagSelector=${encodeURIComponent(selector)}`);
    expect([answer.body.totalCount, answer.body.items.length]).toEqual([expected, expected]);
  });

  it('filters by fields', async () => {
    expect(names(await api.get(`/v1/networks?name=${nameOf(7)}`))).toEqual([nameOf(7)]);
    expect((await api.get('/v1/networks?state=ready&count=true')).body.totalCount).toBe(count);
    expect(names(await api.get('/v1/networks?state=failed'))).toEqual([]);
    expect((await api.get('/v1/jobs?kind=network&action=create&state=succeeded&count=true')).body.totalCount).toBe(
      count,
    );
  });
});

describe('events', () => {
  it('tell every change in order, and go on where a reader left, without loss or repetition', async () => {
    const live = await EventStream.open(stack.dev.api, api);
    const other = await EventStream.open(stack.dev.api, await apiOf(stack, 'globex'));
    const network = await api.make('networks', { name: 'told', subnet: '10.110.0.0/29' });
    const first = await live.next('of the network', ({ data }) => data.resource?.state === 'ready');
    await api.patch('/v1/networks/told?wait=30s', { tags: { a: 'b' } });
    await api.remove('networks', 'told');
    await live.next('of the end', ({ type, data }) => type === 'resource.deleted' && data.resource?.id === network.id);
    await until('the job’s end', () =>
      live.seen.some(({ data }) => data.job?.action === 'delete' && data.job.state === 'succeeded'),
    );
    const numbers = live.seen.map(({ id }) => Number(id));
    expect(numbers).toEqual([...numbers].sort((a, b) => a - b));
    expect(new Set(numbers).size).toBe(numbers.length);
    // What ended just before gets its numbers a moment later, and may come first.
    const ofIt = live.seen.filter(({ data }) => data.resource?.id === network.id);
    const generations = ofIt.map(({ data }) => data.resource.generation);
    expect(new Set(generations)).toEqual(new Set([1, 2, 3]));
    expect(generations).toEqual([...generations].sort());

    for (const [query, headers] of [
      ['', { 'last-event-id': first.id }],
      [`?since=${first.id}`, {}],
    ] as const) {
      const resumed = await EventStream.open(stack.dev.api, api, query, headers);
      const after = live.seen.slice(live.seen.indexOf(first) + 1);
      await until('all that came after', () => resumed.seen.length >= after.length);
      expect(resumed.seen).toEqual(after);
      await resumed.close();
    }
    expect(other.seen).toEqual([]);
    await Promise.all([live.close(), other.close()]);
  });

  it('tell a selection also of what leaves it', async () => {
    const selected = await EventStream.open(stack.dev.api, api, '?kind=network&tagSelector=tier%3Dweb');
    await api.make('networks', { name: 'in', subnet: '10.111.0.0/29', tags: { tier: 'web' } });
    await api.make('networks', { name: 'out', subnet: '10.112.0.0/29', tags: { tier: 'db' } });
    await api.patch('/v1/networks/in?wait=30s', { tags: { tier: 'db' } });
    await selected.next('of leaving', ({ data }) => data.resource?.tags?.tier === 'db');
    await api.patch('/v1/networks/in?wait=30s', { tags: { note: 'unseen' } });
    await Promise.all([api.remove('networks', 'in'), api.remove('networks', 'out')]);
    const about = (name: string) => selected.seen.filter(({ data }) => data.resource?.name === name);
    expect(about('out')).toEqual([]);
    expect(about('in').map(({ data }) => data.resource.tags.note)).not.toContain('unseen');
    expect(about('in').length).toBeGreaterThan(1);
    await selected.close();
  });

  it('of one resource, or for one who may see it, are only those', async () => {
    const network = await api.make('networks', { name: 'one', subnet: '10.113.0.0/29' });
    const viewer = await apiOf(stack, 'initech', 'viewer');
    const stream = await EventStream.open(stack.dev.api, viewer, '?kind=network&resource=one');
    await api.make('networks', { name: 'two', subnet: '10.114.0.0/29' });
    await api.patch('/v1/networks/one?wait=30s', { tags: { a: 'b' } });
    await stream.next('of the patch', ({ data }) => data.resource?.tags?.a === 'b');
    const ids = stream.seen.map(({ data }) => data.resource?.id ?? data.job?.resource?.id);
    expect(new Set(ids)).toEqual(new Set([network.id]));
    await stream.close();
    await Promise.all([api.remove('networks', 'one'), api.remove('networks', 'two')]);
  });
});

describe('the audit trail', () => {
  it('tells what was done and what was refused, by whom and by which request', async () => {
    const viewer = await apiOf(stack, 'initech', 'viewer');
    const requestId = `audit-${Date.now()}`;
    const made = await api.post(
      '/v1/networks?wait=30s',
      { name: 'seen', subnet: '10.115.0.0/29' },
      { 'x-request-id': requestId },
    );
    expectProblem(await viewer.delete('/v1/networks/seen', { 'x-request-id': `${requestId}-no` }), 403, 'forbidden');
    const rows = async (query: string) => (await api.get(`/v1/audit?${query}`)).body.items;
    expect(await rows(`requestId=${requestId}`)).toMatchObject([
      {
        actor: 'initech-admin',
        action: 'network.create',
        result: 'done',
        resource: { kind: 'network', id: made.body.id, name: 'seen' },
      },
    ]);
    expect(await rows(`requestId=${requestId}-no`)).toMatchObject([
      { actor: 'initech-viewer', action: 'network.delete', result: 'refused', code: 'forbidden' },
    ]);
    await api.remove('networks', 'seen');
    expect((await rows(`resource=${made.body.id}&result=done`)).map(({ action }: any) => action)).toEqual([
      'network.create',
      'network.delete',
    ]);
  });
});
