/** Requests that are wrong as HTTP, as conditions or as queries: each gets its 4xx problem, never a 5xx, and changes nothing. */
import { request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { type Stack, sharedStack } from './harness/stack.js';

const absent = '0193f9a0-0000-7000-8000-000000000000';
let stack: Stack;
let api: Client;
let globex: Client;
let foreign: any;

beforeAll(async () => {
  stack = await sharedStack('sim');
  [api, globex] = await Promise.all([apiOf(stack), apiOf(stack, 'globex')]);
  await api.make('networks', { name: 'req', subnet: '10.70.0.0/24', tags: { a: 'b' } });
  foreign = await globex.make('networks', { name: 'theirs', subnet: '10.70.0.0/24' });
}, 120_000);

afterAll(async () => {
  expect((await api.get('/v1/networks/req')).body).toMatchObject({ generation: 1, tags: { a: 'b' }, state: 'ready' });
  await api.remove('networks', 'req');
  await globex.remove('networks', 'theirs');
});

/** By node:http, which sends what fetch would not. */
function rawly(method: string, path: string, headers: Record<string, string> = {}, body?: string): Promise<Answer> {
  const authorization = `Bearer ${api.token}`;
  return new Promise((resolve, reject) => {
    const sent = httpRequest(stack.dev.api + path, { method, headers: { authorization, ...headers } }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk) => chunks.push(chunk));
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString();
        const fields = Object.entries(response.headers).map(([name, value]): [string, string] => [name, String(value)]);
        const isJson = /json/.test(response.headers['content-type'] ?? '');
        resolve({
          status: response.statusCode ?? 0,
          headers: new Headers(fields),
          text,
          body: isJson && text !== '' ? JSON.parse(text) : undefined,
        });
      });
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

describe('a body', () => {
  const json = { 'content-type': 'application/json' };

  it('that is no JSON, or no object, is 400', async () => {
    for (const raw of ['{', '{"name": "x",}', "{'a': 1}", '\u0000', 'NaN', '{"a": 1} x'])
      expectProblem(await api.call('POST', '/v1/networks', { raw, headers: json }), 400, 'malformed_json');
    for (const raw of ['[]', '5', '"x"', 'null', 'true', ''])
      expectProblem(await api.call('POST', '/v1/networks', { raw, headers: json }), 400, 'not_an_object');
    expectProblem(await rawly('POST', '/v1/networks'), 400, 'not_an_object');
    const latin = new Uint8Array([0x7b, 0x22, 0xe9, 0x22, 0x3a, 0x31, 0x7d]);
    expect((await api.call('POST', '/v1/networks', { raw: latin, headers: json })).status).toBe(422);
  });

  it('that is deep, or has a key twice, is refused and breaks nothing', async () => {
    const deep = `{"name": "x", "tags": ${'['.repeat(50_000)}${']'.repeat(50_000)}}`;
    const keyed = { ...json, 'idempotency-key': 'deep' };
    for (const [method, path, headers] of [
      ['POST', '/v1/networks', json],
      ['POST', '/v1/networks', keyed],
      ['PATCH', '/v1/networks/x', { 'content-type': 'application/merge-patch+json' }],
      ['POST', '/v1/instances/x/stop', keyed],
    ] as const)
      expectProblem(await api.call(method, path, { raw: deep, headers }), 422, 'invalid');
    const proto = '{"name": "x", "subnet": "10.0.0.0/24", "__proto__": {"admin": true}}';
    expectProblem(await api.call('POST', '/v1/networks', { raw: proto, headers: json }), 422, 'invalid', '/__proto__');
  });

  it('over 1 MiB is 413', async () => {
    const raw = JSON.stringify({ name: 'x', subnet: 'x'.repeat(10 * 1024 * 1024) });
    const answer = await rawly('POST', '/v1/networks', { ...json, 'content-length': String(raw.length) }, raw).catch(
      (error: NodeJS.ErrnoException) => error,
    );
    // The server may hang up before all is sent; then the answer may not have been read.
    if (answer instanceof Error) expect(['EPIPE', 'ECONNRESET']).toContain((answer as NodeJS.ErrnoException).code);
    else expectProblem(answer, 413, 'body_too_large');
    const little = JSON.stringify({ name: 'x', subnet: 'x'.repeat(1024 * 1024) });
    expectProblem(await api.call('POST', '/v1/networks', { raw: little, headers: json }), 413, 'body_too_large');
  });

  it('of another type is 415', async () => {
    for (const type of ['text/plain', 'application/xml', 'application/x-www-form-urlencoded', 'nonsense'])
      expectProblem(
        await api.call('POST', '/v1/networks', { raw: '{}', headers: { 'content-type': type } }),
        415,
        'unsupported_media_type',
      );
    const patch = { raw: '[]', headers: { 'content-type': 'application/json-patch+json' } };
    expectProblem(await api.call('PATCH', '/v1/networks/req', patch), 415, 'unsupported_media_type');
  });
});

describe('a request', () => {
  it('for a representation that there is not is 406', async () => {
    for (const accept of ['text/xml', 'application/xml;q=0.9', 'application/json;q=0', 'image/*'])
      expectProblem(await api.get('/v1/networks', { accept }), 406, 'not_acceptable');
    for (const accept of ['*/*', 'application/json', 'application/*', 'text/xml, application/json;q=0.1'])
      expect((await api.get('/v1/networks', { accept })).status).toBe(200);
  });

  it('that is too long is 414, or 431 where its headers are', async () => {
    expectProblem(await rawly('GET', `/v1/networks?name=${'x'.repeat(10_000)}`), 414, 'uri_too_long');
    expectProblem(await rawly('GET', `/v1/networks/${'x'.repeat(5_000)}`), 414, 'uri_too_long');
    const huge = await rawly('GET', '/v1/networks', { 'x-huge': 'x'.repeat(100_000) });
    expectProblem(huge, 431, 'headers_too_large');
  });

  it('with a method that the path has not is 405 and says which it has', async () => {
    for (const [method, path, allow] of [
      ['PUT', '/v1/networks', 'GET, HEAD, POST'],
      ['DELETE', '/v1/networks', 'GET, HEAD, POST'],
      ['POST', '/v1/networks/req', 'DELETE, GET, HEAD, PATCH'],
      ['PATCH', '/v1/jobs', 'GET, HEAD'],
      ['DELETE', `/v1/jobs/${absent}`, 'GET, HEAD'],
      ['POST', '/v1/events', 'GET, HEAD'],
      ['DELETE', '/v1/audit', 'GET, HEAD'],
    ] as const) {
      const answer = await api.call(method, path);
      expectProblem(answer, 405, 'method_not_allowed');
      expect(answer.headers.get('allow')).toBe(allow);
    }
    expectProblem(await api.post('/v1/images', { name: 'x' }), 405, 'method_not_allowed');
  });

  it('for a path that there is not is 404, and for a malformed one 400', async () => {
    for (const path of ['/', '/v1', '/v2/networks', '/v1/network', '/v1/networks/req/x/y', '/v1/networks//', '/v1/..'])
      expectProblem(await api.get(path), 404, 'not_found');
    expectProblem(await rawly('GET', '/v1/networks/%zz'), 400, 'malformed_request');
    for (const method of ['GET', 'DELETE']) expectProblem(await rawly(method, '/v1/networks/%00'), 404, 'not_found');
  });

  it('that is no HTTP is told so', async () => {
    const { hostname, port } = new URL(stack.dev.api);
    const answer = await new Promise<string>((resolve, reject) => {
      let text = '';
      const socket = connect(Number(port), hostname, () => socket.write('NONSENSE\r\n\r\n'));
      socket.on('data', (chunk) => {
        text += chunk;
      });
      socket.on('close', () => resolve(text));
      socket.on('error', reject);
    });
    expect(answer).toMatch(/^HTTP\/1\.1 400 /);
    expect(answer).toContain('application/problem+json');
  });

  it('keeps its id, unless that is malformed', async () => {
    const kept = await api.get('/v1/networks/nowhere', { 'x-request-id': 'my-request.1' });
    expect(kept.headers.get('x-request-id')).toBe('my-request.1');
    expect(kept.body.requestId).toBe('my-request.1');
    for (const bad of ['a b', 'x'.repeat(300), '"', '<script>']) {
      const answer = await api.get('/v1/networks', { 'x-request-id': bad });
      expect(answer.headers.get('x-request-id')).not.toBe(bad);
      expect(answer.headers.get('x-request-id')).toMatch(/^[\w.-]{8,}$/);
    }
    const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
    expect((await api.get('/v1/networks', { traceparent })).headers.get('traceparent')).toBe(traceparent);
  });
});

describe('what belongs to another tenant', () => {
  /** A problem without what tells one request from another. */
  const withoutIds = ({ text, body }: Answer, id: string) =>
    text.replaceAll(body.requestId, 'REQUEST').replaceAll(id, 'ID');

  it('is answered to the letter as what does not exist', async () => {
    for (const [method, path, json] of [
      ['GET', '/v1/networks/ID', undefined],
      ['PATCH', '/v1/networks/ID', { tags: {} }],
      ['DELETE', '/v1/networks/ID', undefined],
      ['DELETE', '/v1/networks/ID?dryRun=true', undefined],
      ['GET', '/v1/networks/ID/leases', undefined],
      ['POST', '/v1/networks/ID/leases', { mac: '52:54:00:12:34:56' }],
      ['POST', '/v1/instances', { name: 'x', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'ID' }] }],
      ['POST', '/v1/instances', { name: 'x', image: 'ID', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'req' }] }],
    ] as const) {
      const send = (id: string) =>
        api.call(method, path.replace('ID', id), {
          ...(json && { json: JSON.parse(JSON.stringify(json).replace('ID', id)) }),
        });
      const [theirs, none] = [await send(foreign.id), await send(absent)];
      expect([404, 422]).toContain(none.status);
      expect(withoutIds(theirs, foreign.id)).toBe(withoutIds(none, absent));
    }
    const { items } = (await globex.get('/v1/jobs?pageSize=1')).body;
    const [theirs, none] = [await api.get(`/v1/jobs/${items[0].id}`), await api.get(`/v1/jobs/${absent}`)];
    expect(withoutIds(theirs, items[0].id)).toBe(withoutIds(none, absent));
    for (const action of ['cancel', 'retry'])
      expectProblem(await api.post(`/v1/jobs/${items[0].id}/${action}`, {}), 404, 'not_found');
  });

  it('is in no list, also by its id', async () => {
    const ids = (answer: Answer) => answer.body.items.map(({ id }: any) => id);
    expect(ids(await api.get('/v1/networks'))).not.toContain(foreign.id);
    expect((await api.get(`/v1/jobs?resource=${foreign.id}`)).body.items).toEqual([]);
    expect((await api.get(`/v1/audit?resource=${foreign.id}`)).body.items).toEqual([]);
  });
});

describe('a condition', () => {
  it('that does not hold any more stops a change, and one that holds spares an answer', async () => {
    const { headers } = await api.get('/v1/networks/req');
    const etag = headers.get('etag')!;
    expect(etag).toMatch(/^"[^"]+"$/);
    for (const stale of ['"0"', '"nonsense"', `W/${etag}`, 'nonsense', '']) {
      const header = { 'if-match': stale };
      if (stale === '') continue;
      expectProblem(await api.patch('/v1/networks/req', { tags: {} }, header), 412, 'precondition_failed', 'If-Match');
      expectProblem(await api.delete('/v1/networks/req', header), 412, 'precondition_failed', 'If-Match');
    }
    for (const known of [etag, `W/${etag}`, `"x", ${etag}`, '*']) {
      const unchanged = await api.get('/v1/networks/req', { 'if-none-match': known });
      expect([unchanged.status, unchanged.text]).toEqual([304, '']);
    }
    expect((await api.get('/v1/networks/req', { 'if-none-match': '"x"' })).status).toBe(200);
    const dry = await api.call('PATCH', '/v1/networks/req?dryRun=true', {
      json: { tags: { c: 'd' } },
      headers: { 'if-match': etag },
    });
    expect(dry).toMatchObject({ status: 200, body: { tags: { a: 'b', c: 'd' } } });
    expect((await api.get('/v1/networks/req')).headers.get('etag')).toBe(etag);
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
      const answer = await rawly(
        'POST',
        '/v1/networks',
        { 'idempotency-key': Buffer.from(bad).toString('latin1'), 'content-type': 'application/json' },
        '{}',
      );
      expectProblem(answer, 422, 'invalid', 'Idempotency-Key');
    }
    const key = { 'idempotency-key': `later-${Date.now()}` };
    expectProblem(await api.post('/v1/networks', { name: 'req', subnet: '10.72.0.0/29' }, key), 409, 'name_taken');
    expectProblem(await api.post('/v1/networks', { name: 'req', subnet: '10.72.0.0/29' }, key), 409, 'name_taken');
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
      await api.post('/v1/networks?dryRun=true', { name: 'req', subnet: '10.73.0.0/24' }),
      409,
      'name_taken',
    );
    const machine = { name: 'dry', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'req' }] };
    const planned = await api.post('/v1/instances?dryRun=true', machine);
    expect(planned).toMatchObject({ status: 200, body: { node: 'node1', interfaces: [{ ip: '10.70.0.2' }] } });
    expect((await api.delete('/v1/networks/req?dryRun=true')).status).toBe(200);
    const lease = await api.post('/v1/networks/req/leases?dryRun=true', { mac: '52:54:00:12:34:56' });
    expect(lease).toMatchObject({ status: 200, body: { ip: '10.70.0.2' } });
    expect((await api.get('/v1/networks/req/leases')).body.items).toEqual([]);
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
      ['/v1/networks/req?foo=1', 'foo'],
      ['/v1/networks/req/leases?automatic=maybe', 'automatic'],
      ['/v1/networks/req/leases?instance=x', 'instance'],
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
