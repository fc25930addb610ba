/** Requests that are wrong as HTTP, or about what is another tenant's: each gets its 4xx problem and changes nothing. */
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Answer, apiOf, type Client } from './harness/client.js';
import { expectProblem } from './harness/expect-problem.js';
import { sendRaw } from './harness/raw-http.js';
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

const rawly = (method: string, path: string, headers?: Record<string, string>, body?: string) =>
  sendRaw(stack.dev.api, api.token, method, path, headers, body);

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
      ['PUT', '/v1/networks', 'DELETE, GET, HEAD, POST'],
      ['DELETE', '/v1/jobs', 'GET, HEAD'],
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
    expectProblem(await api.post('/v1/quotas', { name: 'x' }), 405, 'method_not_allowed');
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
