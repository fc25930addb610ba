/** Rate limits, quotas and the reference page as clients see them. */
import 'reflect-metadata';
import { runInNewContext } from 'node:vm';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import { setQuotas } from '#libs/tenants';
import { type Platform, startPlatform } from '#libs/testing';
import { type Asked, askAt, expectProblem, generous, serve } from './test-server.js';

let platform: Platform;
let app: NestFastifyApplication;
let narrow: NestFastifyApplication;
let base: string;
let narrowBase: string;
/** Statements that reached the database. */
let statements = 0;

beforeAll(async () => {
  platform = await startPlatform({ kinds, workers: false, onQuery: () => (statements += 1) });
  for (const id of ['acme', 'globex']) await platform.tenant(id);
  app = await serve(platform);
  base = await app.getUrl();
  const slow = {
    tenantPerSecond: 1,
    tenantBurst: 6,
    userPerSecond: 1,
    userBurst: 3,
    addressPerSecond: 1,
    addressBurst: 3,
  };
  narrow = await serve(platform, slow);
  narrowBase = await narrow.getUrl();
});
afterAll(async () => {
  await app?.close();
  await narrow?.close();
  await platform?.close();
});

const ask = (path: string, asked?: Asked) => askAt(base, path, asked);

describe('rate limits', () => {
  test('are told with every answer', async () => {
    const { headers } = await ask('/v1/networks');
    const { tenantBurst } = generous;
    expect(headers.get('ratelimit-policy')).toBe(`"tenant";q=${tenantBurst};w=1, "user";q=${tenantBurst};w=1`);
    expect(headers.get('ratelimit')).toMatch(/^"tenant";r=\d+;t=1, "user";r=\d+;t=1$/);
    expect((await ask('/v1/networks/none')).headers.get('ratelimit')).not.toBeNull();
    expect((await ask('/v1/networks', { token: null })).headers.get('ratelimit')).toMatch(/^"address";r=/);
  });

  test('refuse who is over them with 429 and when to come again, without the database', async () => {
    const one = (token: string) => askAt(narrowBase, '/v1/networks', { token });
    for (let n = 0; n < 3; n++) expect((await one('admin.acme')).status).toBe(200);
    const before = statements;
    const { headers, body } = await expectProblem(one('admin.acme'), 429, 'too_many_requests');
    expect(statements).toBe(before);
    expect(headers.get('retry-after')).toMatch(/^[1-9]\d*$/);
    expect(body).toMatchObject({ retryable: true, policy: 'user' });
    // Others of the tenant have what is left of the tenant's own.
    const others = await Promise.all(Array.from({ length: 6 }, (_, n) => one(`admin.acme.user-${n}`)));
    expect(others.filter(({ status }) => status === 200).length).toBeLessThanOrEqual(4);
    expect(others.find(({ status }) => status === 429)?.body.policy).toBe('tenant');
    expect((await one('admin.globex')).status).toBe(200);
  });

  test('hold for those without valid credentials by address, and leave the others alone', async () => {
    const one = () => askAt(narrowBase, '/v1/networks', { token: 'nonsense' });
    const answers = [await one(), await one(), await one(), await one(), await one()];
    expect(answers[0]!.status).toBe(401);
    expect(answers.at(-1)!.body).toMatchObject({ code: 'too_many_requests', policy: 'address' });
    expect((await askAt(narrowBase, '/v1/networks', { token: 'admin.globex.other' })).status).toBe(200);
  });
});

describe('quotas', () => {
  test('are shown to the tenant’s users and told by the refusal', async () => {
    await platform.db.operatorTransaction((tx) => setQuotas(tx, 'acme', { networks: 1, vcpus: 4 }));
    const create = (name: string, query = '') =>
      ask(`/v1/networks${query}`, { method: 'POST', body: { name, subnet: '10.80.0.0/24' } });
    expect((await create('first')).status).toBe(202);
    for (const query of ['', '?dryRun=true']) {
      const { body } = await expectProblem(create('second', query), 409, 'quota_exceeded');
      expect(body).toMatchObject({ quota: 'networks', max: 1, used: 1, asked: 1, left: 0, retryable: false });
    }
    const items = [
      { name: 'networks', max: 1, used: 1 },
      { name: 'vcpus', max: 4, used: 0 },
    ];
    expect((await ask('/v1/quotas', { token: 'viewer.acme' })).body).toEqual({ items });
    expect((await ask('/v1/quotas', { token: 'viewer.globex' })).body).toEqual({ items: [] });
    await expectProblem(ask('/v1/quotas?pageSize=3'), 422, 'invalid');
    await expectProblem(ask('/v1/quotas', { method: 'POST', body: {} }), 405, 'method_not_allowed');
    const audit = await platform.db.operator
      .selectFrom('audit')
      .select(['action', 'result', 'code'])
      .where('code', '=', 'quota_exceeded')
      .execute();
    expect(audit).toContainEqual({ action: 'network.create', result: 'refused', code: 'quota_exceeded' });
  });
});

describe('the reference page', () => {
  test('is served to anybody, and names no other place', async () => {
    const page = await ask('/docs', { token: null, headers: { accept: 'text/html' } });
    expect(page.status).toBe(200);
    expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8');
    expect(page.headers.get('content-security-policy')).toMatch(/^default-src 'none'; script-src 'self';/);
    expect(page.text).not.toMatch(/https?:\/\/|<script>/);
    const files = [...page.text.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, path]) => path!);
    expect(files).toHaveLength(5);
    for (const path of files) {
      const file = await ask(path, { token: null });
      expect(file.status, path).toBe(200);
      expect(file.text.length, path).toBeGreaterThan(100);
      const etag = file.headers.get('etag');
      if (path.startsWith('/docs/') && etag) {
        expect((await ask(path, { token: null, headers: { 'if-none-match': etag } })).status, path).toBe(304);
      }
    }
  });

  test('starts on this server’s own description', async () => {
    const { text } = await ask('/docs/start.js', { token: null });
    let options: Record<string, unknown> = {};
    runInNewContext(text, { SwaggerUIBundle: (given: Record<string, unknown>) => (options = given) });
    expect(options).toMatchObject({ url: '/v1/openapi.json', validatorUrl: null, supportedSubmitMethods: [] });
    expect((await ask('/v1/openapi.json', { token: null })).body.openapi).toBe('3.1.0');
  });

  test('has no more than it needs', async () => {
    for (const path of ['/docs/package.json', '/docs/..%2fpackage.json', '/docs/swagger-initializer.js']) {
      await expectProblem(ask(path, { token: null }), 404, 'not_found');
    }
    await expectProblem(ask('/docs', { method: 'POST', body: {}, token: null }), 405, 'method_not_allowed');
    await expectProblem(ask('/docs', { token: null, headers: { accept: 'image/png' } }), 406, 'not_acceptable');
    await expectProblem(ask('/', { token: 'admin.acme' }), 404, 'not_found');
  });
});
