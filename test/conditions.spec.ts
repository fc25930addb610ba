/** Conditions, idempotency keys, dry runs and queries: what holds is obeyed, what is wrong is told and changes nothing. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { sendRaw } from './harness/raw-http.js';
import { type Stack, sharedStack } from './harness/stack.js';

let stack: Stack;
let api: Client;

beforeAll(async () => {
  stack = await sharedStack('sim');
  api = await apiOf(stack);
  await api.make('networks', { name: 'cond', subnet: '10.75.0.0/24', tags: { a: 'b' } });
}, 120_000);

afterAll(async () => {
  expect((await api.get('/v1/networks/cond')).body).toMatchObject({ generation: 1, tags: { a: 'b' }, state: 'ready' });
  await api.remove('networks', 'cond');
});

describe('a condition', () => {
  it('that does not hold any more stops a change, and one that holds spares an answer', async () => {
    const { headers } = await api.get('/v1/networks/cond');
    const etag = headers.get('etag')!;
    expect(etag).toMatch(/^"[^"]+"$/);
    for (const stale of ['"0"', '"nonsense"', `W/${etag}`, 'nonsense', '']) {
      const header = { 'if-match': stale };
      if (stale === '') continue;
      expectProblem(await api.patch('/v1/networks/cond', { tags: {} }, header), 412, 'precondition_failed', 'If-Match');
      expectProblem(await api.delete('/v1/networks/cond', header), 412, 'precondition_failed', 'If-Match');
    }
    for (const known of [etag, `W/${etag}`, `"x", ${etag}`, '*']) {
      const unchanged = await api.get('/v1/networks/cond', { 'if-none-match': known });
      expect([unchanged.status, unchanged.text]).toEqual([304, '']);
    }
    expect((await api.get('/v1/networks/cond', { 'if-none-match': '"x"' })).status).toBe(200);
    const dry = await api.call('PATCH', '/v1/networks/cond?dryRun=true', {
      json: { tags: { c: 'd' } },
      headers: { 'if-match': etag },
    });
    expect(dry).toMatchObject({ status: 200, body: { tags: { a: 'b', c: 'd' } } });
    expect((await api.get('/v1/networks/cond')).headers.get('etag')).toBe(etag);
  });
});

describe('an idempotency key', () => {
  const body = (n = 1) => ({ name: 'once', subnet: `10.71.${n}.0/29` });

  it('makes one of many, and answers the same again', async () => {
    const key = { 'idempotency-key': `key-${Date.now()}` };
    const answers = await Promise.all(Array.from({ length: 8 }, () => api.post('/v1/networks', body(), key)));
    const made = answers.filter(({ status }) => status === 202);
    expect(made.length).toBeGreaterThan(0);
    expect(new Set(made.map(({ body: { id } }) => id)).size).toBe(1);
    expect(made.filter(({ headers }) => headers.get('idempotency-replayed') === null)).toHaveLength(1);
    for (const answer of answers) if (answer.status !== 202) expectProblem(answer, 409, 'idempotency_in_progress');
    const again = await api.post('/v1/networks', body(), key);
    expect([again.status, again.headers.get('idempotency-replayed'), again.body.id]).toEqual([
      202,
      'true',
      made[0]!.body.id,
    ]);
    expect(again.headers.get('location')).toBe(made[0]!.headers.get('location'));
    expectProblem(await api.post('/v1/networks', body(2), key), 422, 'idempotency_key_reused', 'Idempotency-Key');
    expectProblem(await api.delete('/v1/networks/once', key), 422, 'idempotency_key_reused');
    // Somebody else's key is another key.
    const other = await apiOf(stack, 'acme', 'operator');
    expectProblem(await other.post('/v1/networks', body(), key), 409, 'name_taken');
    await api.get(`/v1/jobs/${again.body.job.id}?wait=30s`);
    await api.remove('networks', 'once');
  });

  it('that is malformed is refused, and a refusal is not kept', async () => {
    for (const bad of ['a b', 'x'.repeat(256), 'ä']) {
      const answer = await sendRaw(
        stack.dev.api,
        api.token,
        'POST',
        '/v1/networks',
        { 'idempotency-key': Buffer.from(bad).toString('latin1'), 'content-type': 'application/json' },
        '{}',
      );
      expectProblem(answer, 422, 'invalid', 'Idempotency-Key');
    }
    const key = { 'idempotency-key': `later-${Date.now()}` };
    expectProblem(await api.post('/v1/networks', { name: 'cond', subnet: '10.72.0.0/29' }, key), 409, 'name_taken');
    expectProblem(await api.post('/v1/networks', { name: 'cond', subnet: '10.72.0.0/29' }, key), 409, 'name_taken');
  });
});

describe('a dry run', () => {
  it('answers as for real and leaves nothing', async () => {
    const jobs = async () => (await api.get('/v1/jobs?count=true&pageSize=1')).body.totalCount;
    const before = await jobs();
    const dry = await api.post('/v1/networks?dryRun=true', { name: 'dry', subnet: '10.73.0.0/24' });
    expect(dry).toMatchObject({ status: 200, body: { name: 'dry', subnet: '10.73.0.0/24', gateway: '10.73.0.1' } });
    expect(dry.body).not.toHaveProperty('job');
    expectProblem(
      await api.post('/v1/networks?dryRun=true', { name: 'cond', subnet: '10.73.0.0/24' }),
      409,
      'name_taken',
    );
    const machine = { name: 'dry', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'cond' }] };
    const planned = await api.post('/v1/instances?dryRun=true', machine);
    expect(planned).toMatchObject({ status: 200, body: { node: 'node1', interfaces: [{ ip: '10.75.0.2' }] } });
    expect((await api.delete('/v1/networks/cond?dryRun=true')).status).toBe(200);
    const lease = await api.post('/v1/networks/cond/leases?dryRun=true', { mac: '52:54:00:12:34:56' });
    expect(lease).toMatchObject({ status: 200, body: { ip: '10.75.0.2' } });
    expect((await api.get('/v1/networks/cond/leases')).body.items).toEqual([]);
    for (const path of ['/v1/networks/dry', '/v1/instances/dry']) expectProblem(await api.get(path), 404, 'not_found');
    expect(await jobs()).toBe(before);
  });
});

describe('a query', () => {
  it('with an unknown parameter, a wrong value or one twice is 422 and names it', async () => {
    for (const [path, parameter] of [
      ['/v1/networks?foo=1', 'foo'],
      ['/v1/networks?name=a&name=b', 'name'],
      ['/v1/networks?pageSize=0', 'pageSize'],
      ['/v1/networks?pageSize=-1', 'pageSize'],
      ['/v1/networks?pageSize=x', 'pageSize'],
      ['/v1/networks?pageSize=', 'pageSize'],
      ['/v1/networks?sort=subnet', 'sort'],
      ['/v1/networks?sort=--name', 'sort'],
      ['/v1/networks?sort=constructor', 'sort'],
      ['/v1/networks?count=yes', 'count'],
      ['/v1/networks?tagSelector=%3Db', 'tagSelector'],
      ['/v1/networks?tagSelector=a+in+(b', 'tagSelector'],
      ['/v1/networks?tagSelector=,', 'tagSelector'],
      ['/v1/networks?pageToken=x', 'pageToken'],
      ['/v1/networks?name=%00', 'name'],
      [`/v1/networks?name=${'x'.repeat(300)}`, 'name'],
      ['/v1/networks/cond?foo=1', 'foo'],
      ['/v1/networks/cond/leases?automatic=maybe', 'automatic'],
      ['/v1/networks/cond/leases?instance=x', 'instance'],
      ['/v1/jobs?resource=x', 'resource'],
      ['/v1/jobs?tagSelector=a', 'tagSelector'],
      ['/v1/audit?foo=1', 'foo'],
      ['/v1/events?foo=1', 'foo'],
      ['/v1/events?since=x', 'since'],
      ['/v1/events?tagSelector=(', 'tagSelector'],
    ] as const) {
      const answer = await api.get(path);
      expect({ path, status: answer.status }).toEqual({ path, status: 422 });
      expectProblem(answer, 422, 'invalid', parameter);
    }
    for (const [path, parameter] of [
      ['/v1/networks?dryRun=maybe', 'dryRun'],
      ['/v1/networks?wait=61s', 'wait'],
      ['/v1/networks?wait=30', 'wait'],
      ['/v1/networks?wait=-1s', 'wait'],
      ['/v1/networks?foo=1', 'foo'],
    ] as const)
      expectProblem(await api.post(path, { name: 'q', subnet: '10.74.0.0/29' }), 422, 'invalid', parameter);
    expectProblem(await api.get('/v1/events', { 'last-event-id': 'x' }), 422, 'invalid', 'Last-Event-ID');
    expectProblem(await api.get('/v1/networks/q'), 404, 'not_found');
  });
});
