/** The REST server in one process: conventions of every route, over real HTTP, with tokens that name their actor. */
import 'reflect-metadata';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isUuid } from '#libs/core';
import { kinds } from '#libs/kinds';
import { globalImage, type Platform, startPlatform } from '#libs/testing';
import { ApiModule } from './api.module.js';
import { type Asked, askAt, expectProblem, serve } from './test-server.js';

let platform: Platform;
let app: NestFastifyApplication;
let base: string;

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
  for (const id of ['acme', 'globex']) await platform.tenant(id);
  app = await serve(platform);
  base = await app.getUrl();
});
afterAll(async () => {
  await app?.close();
  await platform?.close();
});

const ask = (path: string, asked?: Asked) => askAt(base, path, asked);
const post = (path: string, body?: unknown, headers?: Record<string, string>) =>
  ask(path, { method: 'POST', body, headers });
let count = 0;
const unique = () => `api-${++count}`;

describe('what is refused', () => {
  test('an invalid body, with pointers: the metadata of the DTOs is there', async () => {
    const { body } = await expectProblem(post('/v1/networks', { name: 7, subnet: 'x', colour: 'red' }), 422, 'invalid');
    expect(body.errors.map(({ pointer }: { pointer: string }) => pointer).sort()).toEqual([
      '/colour',
      '/name',
      '/subnet',
    ]);
  });

  test('what is no JSON, no object, too large, or of another type', async () => {
    await expectProblem(post('/v1/networks', '{"name":'), 400, 'malformed_json');
    for (const body of [[], 'null', '"text"', '7']) {
      await expectProblem(post('/v1/networks', body), 400, 'not_an_object');
    }
    await expectProblem(post('/v1/networks'), 400, 'not_an_object');
    await expectProblem(post('/v1/networks', { name: 'x'.repeat(1_100_000) }), 413, 'body_too_large');
    const xml = { 'content-type': 'application/xml' };
    await expectProblem(post('/v1/networks', '<a/>', xml), 415, 'unsupported_media_type');
    const patch = { method: 'PATCH', body: [], headers: { 'content-type': 'application/json-patch+json' } };
    await expectProblem(ask('/v1/networks/x', patch), 415, 'unsupported_media_type');
  });

  test('a path, method or representation that is not there', async () => {
    await expectProblem(ask('/v1/nothing'), 404, 'not_found');
    const { headers } = await expectProblem(
      ask('/v1/networks', { method: 'PUT', body: {} }),
      405,
      'method_not_allowed',
    );
    expect(headers.get('allow')).toContain('POST');
    await expectProblem(ask('/v1/networks', { headers: { accept: 'text/html' } }), 406, 'not_acceptable');
    await expectProblem(ask(`/v1/networks?name=${'x'.repeat(9_000)}`), 414, 'uri_too_long');
    await expectProblem(ask('/v1/networks/%ff'), 400, 'malformed_request');
  });

  test('who has no token, or a wrong one, and what breaks inside is not explained', async () => {
    const none = await expectProblem(ask('/v1/networks', { token: null }), 401, 'unauthenticated');
    expect(none.headers.get('www-authenticate')).toMatch(
      /^Bearer realm="rhyzome", resource_metadata="http:\/\/127\.0\.0\.1:\d+\/\.well-known\/oauth-protected-resource"$/,
    );
    const wrong = await expectProblem(ask('/v1/networks', { token: 'nonsense' }), 401, 'unauthenticated');
    expect(wrong.headers.get('www-authenticate')).toContain('invalid_token');
    const broken = await expectProblem(ask('/v1/networks', { token: 'broken' }), 500, 'internal');
    expect(JSON.stringify(broken.body)).not.toContain('secret');
    expect((await ask('/v1/openapi.json', { token: null })).body.openapi).toMatch(/^3\.1/);
  });

  test('query values and headers that mean nothing here', async () => {
    const parameters = ['wait=61s', 'wait=soon', 'dryRun=maybe', 'colour=red', 'dryRun=true&dryRun=true'];
    for (const parameter of parameters) {
      const { body } = await expectProblem(post(`/v1/networks?${parameter}`, { name: 'x' }), 422, 'invalid');
      expect(body.errors[0].parameter, parameter).toBe(parameter.split('=')[0]);
    }
    const key = { 'idempotency-key': 'a b' };
    const { body } = await expectProblem(post('/v1/networks', {}, key), 422, 'invalid');
    expect(body.errors[0].header).toBe('Idempotency-Key');
  });
});

describe('a change', () => {
  test('is accepted with its job, waited for, read conditionally, changed and removed', async () => {
    const name = unique();
    const created = await post('/v1/networks', { name, subnet: '10.70.0.0/24' });
    expect(created).toMatchObject({ status: 202, body: { name, state: 'pending', job: { state: 'queued' } } });
    expect(created.headers.get('location')).toBe(`/v1/jobs/${created.body.job.id}`);
    expect((await ask(`${created.headers.get('location')}?wait=10s`)).body).toMatchObject({ state: 'succeeded' });

    const found = await ask(`/v1/networks/${name}`);
    const etag = found.headers.get('etag')!;
    for (const value of [etag, `W/${etag}`, `"x", ${etag}`, '*']) {
      expect((await ask(`/v1/networks/${name}`, { headers: { 'if-none-match': value } })).status, value).toBe(304);
    }
    expect((await ask(`/v1/networks/${name}`, { headers: { 'if-none-match': '"x"' } })).status).toBe(200);

    const change = { method: 'PATCH', body: { mtu: 1300 } };
    const merge = { 'content-type': 'application/merge-patch+json' };
    await expectProblem(
      ask(`/v1/networks/${name}`, { ...change, headers: { ...merge, 'if-match': '"0"' } }),
      412,
      'precondition_failed',
    );
    const dry = await ask(`/v1/networks/${name}?dryRun=true`, { ...change, headers: merge });
    expect(dry).toMatchObject({ status: 200, body: { mtu: 1300 } });
    const patched = await ask(`/v1/networks/${name}?wait=10s`, { ...change, headers: { ...merge, 'if-match': etag } });
    expect(patched).toMatchObject({ status: 200, body: { mtu: 1300, state: 'ready', job: { state: 'succeeded' } } });
    const removed = await ask(`/v1/networks/${name}?wait=10s`, { method: 'DELETE' });
    expect(removed).toMatchObject({ status: 200, body: { name, job: { state: 'succeeded' } } });
    await expectProblem(ask(`/v1/networks/${name}`), 404, 'not_found');
  });

  test('with a key is answered again, and says so', async () => {
    const body = { name: unique(), subnet: '10.70.0.0/24' };
    const key = { 'idempotency-key': unique() };
    const first = await post('/v1/networks', body, key);
    const again = await post('/v1/networks', body, key);
    expect(again).toMatchObject({ status: 202, body: first.body });
    expect([first, again].map(({ headers }) => headers.get('idempotency-replayed'))).toEqual([null, 'true']);
    await expectProblem(post('/v1/networks', { ...body, mtu: 1300 }, key), 422, 'idempotency_key_reused');
  });

  test('is told in the audit trail with the request id that was sent, refused ones too; to administrators only', async () => {
    const headers = { 'x-request-id': 'request-of-the-test' };
    const created = await post('/v1/networks', { name: unique(), subnet: '10.70.0.0/24' }, headers);
    expect(created.headers.get('x-request-id')).toBe('request-of-the-test');
    await expectProblem(
      post('/v1/networks', { name: created.body.name, subnet: '10.70.0.0/24' }, headers),
      409,
      'name_taken',
    );
    const { items } = (await ask('/v1/audit?requestId=request-of-the-test')).body;
    expect(items).toMatchObject([
      { action: 'network.create', result: 'done', actor: 'admin@acme', resource: { id: created.body.id } },
      { action: 'network.create', result: 'refused', code: 'name_taken' },
    ]);
    const ill = await ask('/v1/networks', { headers: { 'x-request-id': 'a b' } });
    expect(isUuid(ill.headers.get('x-request-id')!)).toBe(true);
    await expectProblem(ask('/v1/audit', { token: 'operator.acme' }), 403, 'forbidden');
    expect((await ask('/v1/audit', { token: 'admin.globex' })).body.items).toEqual([]);
  });
});

describe('lists', () => {
  test('link to their next page', async () => {
    for (let i = 0; i < 3; i++)
      await post('/v1/networks?wait=10s', { name: unique(), subnet: '10.70.0.0/24', tags: { list: 'yes' } });
    const names: string[] = [];
    for (let path = '/v1/networks?tagSelector=list%3Dyes&pageSize=2'; path; ) {
      const page = await ask(path);
      names.push(...page.body.items.map(({ name }: { name: string }) => name));
      path = /^<(.*)>; rel="next"$/.exec(page.headers.get('link') ?? '')?.[1] ?? '';
      expect(page.body.nextPageToken === null).toBe(path === '');
    }
    expect(names).toHaveLength(3);
  });
});

describe('leases', () => {
  test('are made, listed and removed at once; automatic ones are their instance’s', async () => {
    const name = unique();
    await post('/v1/networks?wait=10s', { name, subnet: '10.71.0.0/24' });
    const path = `/v1/networks/${name}/leases`;
    const lease = { mac: '52:54:00:00:00:AA', ip: '10.71.0.50', hostname: 'printer' };
    expect((await post(`${path}?dryRun=true`, lease)).status).toBe(200);
    const made = await post(path, lease);
    expect(made).toMatchObject({
      status: 201,
      body: { ip: '10.71.0.50', mac: '52:54:00:00:00:aa', automatic: false, instance: null },
    });
    await expectProblem(post(path, lease), 409, 'mac_in_use');
    await expectProblem(post(path, { ...lease, mac: '52:54:00:00:00:ab' }), 409, 'address_in_use');
    for (const ip of ['10.72.0.1', '10.71.0.0', '10.71.0.1', '10.71.0.255']) {
      const { body } = await expectProblem(post(path, { mac: '52:54:00:00:00:ac', ip }), 422, 'invalid');
      expect(body.errors[0].pointer, ip).toBe('/ip');
    }
    const vm = { name: unique(), image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: name }] };
    const instance = await post('/v1/instances?wait=10s', vm);
    const { items } = (await ask(path)).body;
    expect(items).toMatchObject([
      { ip: '10.71.0.2', automatic: true, instance: instance.body.id },
      { ip: '10.71.0.50' },
    ]);
    await expectProblem(ask(`${path}/${items[0].id}`, { method: 'DELETE' }), 409, 'managed');
    await expectProblem(ask(`${path}/${made.body.id}`, { method: 'DELETE', token: 'viewer.acme' }), 403, 'forbidden');
    await expectProblem(ask(`${path}/${made.body.id}`, { method: 'DELETE', token: 'admin.globex' }), 404, 'not_found');
    expect((await ask(`${path}/${made.body.id}`, { method: 'DELETE' })).status).toBe(204);
    await expectProblem(ask(`${path}/${made.body.id}`, { method: 'DELETE' }), 404, 'not_found');
    const change = { method: 'PATCH', body: { subnet: '10.73.0.0/24' } };
    await expectProblem(ask(`/v1/networks/${name}`, change), 409, 'in_use');
  });
});

test('no controller lacks what it was to be made with', () => {
  const { controllers } = [
    ...(app as unknown as { container: { getModules(): Map<string, any> } }).container.getModules().values(),
  ].find((module) => module.metatype === ApiModule);
  expect(controllers.size).toBeGreaterThan(5);
  for (const { instance, name } of controllers.values()) {
    for (const [property, value] of Object.entries(instance as object))
      expect(value, `${name}.${property}`).toBeDefined();
  }
});

test('the description has each operation on a kind under that kind', async () => {
  const { paths } = (await ask('/v1/openapi.json', { token: null })).body;
  for (const { name, plural } of kinds) {
    const own = Object.entries<any>(paths).filter(([path]) => path.split('/')[2] === plural);
    expect(own.length, plural).toBeGreaterThan(0);
    for (const [path, operations] of own)
      for (const { tags } of Object.values<any>(operations).filter((operation) => operation.responses))
        expect(tags, path).toEqual([name]);
  }
});
