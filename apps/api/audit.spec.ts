/** Reading the audit trail over HTTP: who may, by time, and as an export that can be gone on with. */
import 'reflect-metadata';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { claimedIssuer } from '#libs/auth';
import { newId } from '#libs/core';
import { createPool } from '#libs/db';
import { RefusedReads, UnauthenticatedLog } from '#libs/events';
import { kinds } from '#libs/kinds';
import { describeApi } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';
import { recordRefusals, recordRefusedReads } from './refusals.js';
import { type Asked, askAt, expectProblem, serve } from './test-server.js';

let platform: Platform;
let app: NestFastifyApplication;
let base: string;

beforeAll(async () => {
  platform = await startPlatform({ kinds, workers: false });
  for (const id of ['acme', 'globex']) await platform.tenant(id);
  app = await serve(platform);
  base = await app.getUrl();
});
afterAll(async () => {
  await app?.close();
  await platform?.close();
});

const ask = (path: string, asked: Asked = {}) => askAt(base, path, asked);
const lines = (text: string) =>
  text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));

/** Rows of one tenant, a minute apart, the last one now; as superuser, who alone can say when a row was written. */
async function rows(tenantId: string, count: number): Promise<void> {
  const pool = createPool(platform.connection, null, { max: 1 });
  await pool.query(
    `insert into audit (tenant_id, id, at, actor, action, kind, resource_id, resource_name, result, code)
     select $1, uuidv7(-n * interval '1 minute'), now() - n * interval '1 minute', 'ann', 'network.create', 'network',
       gen_random_uuid(), 'n' || n, case when n % 2 = 0 then 'done' else 'refused' end, null
     from generate_series(1, $2) n`,
    [tenantId, count],
  );
  await pool.end();
}

const minutesAgo = (n: number) => new Date(Date.now() - n * 60_000).toISOString();

describe('the audit trail', () => {
  beforeAll(() => rows('globex', 120));

  test('is read by time and page by page, and a page token holds for its times only', async () => {
    const range = `from=${minutesAgo(60.5)}&to=${minutesAgo(20.5)}`;
    const seen: string[] = [];
    let token = '';
    for (;;) {
      const page = await ask(`/v1/audit?${range}&pageSize=7&result=done${token && `&pageToken=${token}`}`, {
        token: 'admin.globex',
      });
      expect(page.status).toBe(200);
      seen.push(...page.body.items.map((item: any) => item.resource.name));
      token = page.body.nextPageToken;
      if (!token) break;
      const other = `/v1/audit?from=${minutesAgo(99)}&pageSize=7&result=done&pageToken=${token}`;
      await expectProblem(ask(other, { token: 'admin.globex' }), 422, 'invalid');
    }
    expect(seen).toEqual(Array.from({ length: 20 }, (_, i) => `n${60 - 2 * i}`));
  });

  test('is exported whole, in parts, and only in the tenant’s own', async () => {
    const all = await ask('/v1/audit/export', { token: 'admin.globex' });
    expect(all.status).toBe(200);
    expect(all.headers.get('content-type')).toBe('application/x-ndjson; charset=utf-8');
    const whole = lines(all.text);
    expect(whole.map(({ resource }) => resource.name)).toEqual(Array.from({ length: 120 }, (_, i) => `n${120 - i}`));
    const parts = [];
    for (let after = ''; ; ) {
      const part = lines(
        (await ask(`/v1/audit/export?limit=50${after && `&after=${after}`}`, { token: 'admin.globex' })).text,
      );
      parts.push(...part);
      after = part.at(-1).id;
      if (part.length < 50) break;
    }
    expect(parts).toEqual(whole);
    expect(lines((await ask('/v1/audit/export')).text).filter(({ actor }) => actor === 'ann')).toEqual([]);
    const foreign = `/v1/audit/export?after=${whole[3].id}`;
    expect(lines((await ask(foreign)).text).filter(({ actor }) => actor === 'ann')).toEqual([]);
    expect((await ask('/v1/audit/export', { method: 'HEAD', token: 'admin.globex' })).text).toBe('');
  });

  test('takes more than a page of memory at a time', async () => {
    await platform.tenant('many');
    await rows('many', 2_500);
    expect(lines((await ask('/v1/audit/export', { token: 'admin.many' })).text)).toHaveLength(2_500);
    const limited = await ask('/v1/audit/export?limit=1001', { token: 'admin.many' });
    expect(lines(limited.text)).toHaveLength(1_001);
  });

  test.each(['operator', 'viewer'])('is not for the role %s', async (role) => {
    await expectProblem(ask('/v1/audit', { token: `${role}.globex` }), 403, 'forbidden');
    await expectProblem(ask('/v1/audit/export', { token: `${role}.globex` }), 403, 'forbidden');
  });

  test.each([
    ['from=yesterday', 'from'],
    ['from=2026-01-01', 'from'],
    ['to=2026-13-01T00:00:00Z', 'to'],
    ['from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z', 'to'],
    ['from=1&from=2', 'from'],
    ['limit=0', 'limit'],
    ['limit=1000001', 'limit'],
    ['after=x', 'after'],
    ['pageSize=1', 'pageSize'],
  ])('refuses ?%s', async (query, parameter) => {
    const { body } = await expectProblem(ask(`/v1/audit/export?${query}`), 422, 'invalid');
    expect(body.errors).toContainEqual(expect.objectContaining({ parameter }));
  });
});

describe('what is refused', () => {
  const refusedReads = () => new RefusedReads(platform.db, { warn: () => undefined });
  const rowsOf = async (requestId: string) =>
    platform.db.operator
      .selectFrom('audit')
      .select(['actor', 'action', 'result', 'code', 'resource_name', 'source'])
      .where('tenant_id', '=', 'acme')
      .where('request_id', '=', requestId)
      .execute();

  /** A read's refusal is noted once its answer is sent. */
  async function written(reads: RefusedReads, requestId: string) {
    for (let tries = 0; tries < 40; tries++) {
      await reads.flush();
      const rows = await rowsOf(requestId);
      if (rows.length > 0) return rows;
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    return [];
  }

  /** Refused to whoever has no such permission; there is nothing that could be asked for. */
  const withoutRow = ['get /v1/permissions', 'get /v1/permissions/explain'];

  test('leaves a row on every route, with what was asked for, whoever asks', async () => {
    const reads = refusedReads();
    const guarded = await serve(platform, undefined, { onAnswer: recordRefusedReads(reads, platform.registry) });
    const at = await guarded.getUrl();
    const { paths } = describeApi(kinds, '0') as { paths: Record<string, Record<string, object>> };
    const routes = Object.entries(paths)
      .filter(([path]) => path !== '/v1/events') // a stream, which does not end
      .flatMap(([path, methods]) => Object.keys(methods).map((method) => [method, path] as const));
    const wrong: string[] = [];
    let asked = 0;
    for (const [method, path] of routes) {
      for (const token of ['viewer.acme', 'admin.acme']) {
        const requestId = newId();
        const headers: Record<string, string> = { 'x-request-id': requestId };
        if (method === 'patch') headers['content-type'] = 'application/merge-patch+json';
        const body = ['post', 'patch'].includes(method) ? {} : undefined;
        const url = path.replaceAll(/\{[^}]+\}/g, newId());
        const answer = await askAt(at, url, { method: method.toUpperCase(), token, headers, body });
        if (![403, 404, 409].includes(answer.status) || withoutRow.includes(`${method} ${path}`)) continue;
        asked += 1;
        const rows = await written(reads, requestId);
        const isTold =
          rows.length === 1 && rows[0]!.result === 'refused' && rows[0]!.code === (answer.body?.code ?? 'not_found');
        if (!isTold) wrong.push(`${method} ${path} as ${token}: ${answer.status}, ${JSON.stringify(rows)}`);
      }
    }
    await guarded.close();
    expect(wrong).toEqual([]);
    expect(asked).toBeGreaterThan(80);
  }, 120_000);

  test('names what was asked for, and of what is not known nothing more', async () => {
    const reads = refusedReads();
    const guarded = await serve(platform, undefined, { onAnswer: recordRefusedReads(reads, platform.registry) });
    const at = await guarded.getUrl();
    await askAt(at, '/v1/networks/not-mine', { headers: { 'x-request-id': 'refused-read-1' } });
    await askAt(at, '/v1/networks/not-mine', { method: 'DELETE', headers: { 'x-request-id': 'refused-delete-1' } });
    await askAt(at, '/v1/jobs/not-mine/cancel', { method: 'POST', headers: { 'x-request-id': 'refused-cancel-1' } });
    const common = { actor: 'admin@acme', result: 'refused', code: 'not_found', resource_name: 'not-mine' };
    expect(await written(reads, 'refused-read-1')).toMatchObject([{ ...common, action: 'network.read' }]);
    expect(await rowsOf('refused-delete-1')).toMatchObject([{ ...common, action: 'network.delete' }]);
    expect(await rowsOf('refused-cancel-1')).toMatchObject([{ ...common, action: 'job.cancel' }]);
    await guarded.close();
  });
});

describe('unauthenticated requests', () => {
  const told = () =>
    sql<{ reason: string; source: string; issuer: string; method: string; path: string; count: number }>`
      select reason, source, issuer, method, path, count from audit_unauthenticated order by reason, source`
      .execute(platform.db.operator)
      .then(({ rows: found }) => found);

  test('are counted per reason, address and claimed issuer, with the route and not what was put into it', async () => {
    const log = new UnauthenticatedLog(platform.db, { warn: () => undefined }, 60_000);
    const guarded = await serve(platform, undefined, { onUnauthenticated: recordRefusals(log) });
    const at = await guarded.getUrl();
    for (let i = 0; i < 3; i++) await askAt(at, `/v1/networks/secret-${i}`, { token: null });
    await askAt(at, '/nowhere/secret', { token: 'none' });
    await log.close();
    await guarded.close();
    const found = await told();
    expect(found).toContainEqual(
      expect.objectContaining({ reason: 'missing', method: 'GET', path: '/v1/networks/:id', count: 3 }),
    );
    expect(JSON.stringify(found)).not.toContain('secret');
    expect(found.every(({ source }) => /127\.0\.0\.1|::1/.test(source))).toBe(true);
  });

  test('name the issuer that their token claims, whatever it is', () => {
    const bearer = (payload: string) => `Bearer e30.${Buffer.from(payload).toString('base64url')}.sig`;
    expect(claimedIssuer(bearer('{"iss":"https://elsewhere.example"}'))).toBe('https://elsewhere.example');
    for (const payload of ['{"iss":7}', '[]', 'null', '{', '"iss"'])
      expect(claimedIssuer(bearer(payload))).toBeUndefined();
    for (const header of [undefined, '', 'Bearer x', 'Basic e30.e30.e30'])
      expect(claimedIssuer(header)).toBeUndefined();
  });

  test('of a flood fill neither memory nor the table', async () => {
    const log = new UnauthenticatedLog(platform.db, { warn: () => undefined }, 60_000);
    const before = (await told()).length;
    for (let i = 0; i < 20_000; i++) {
      log.tell({ reason: 'malformed', source: `2001:db8::${i.toString(16)}`, method: 'GET', requestId: newId() });
    }
    await log.close();
    const after = await told();
    expect(after.length - before).toBe(501);
    expect(after.find(({ reason, source }) => reason === 'malformed' && source === '')?.count).toBe(19_500);
    const more = JSON.stringify(
      Array.from({ length: 900 }, (_, i) => ({
        reason: 'expired',
        source: `s${i}`,
        issuer: '',
        method: 'GET',
        path: '',
        request_id: '',
        first_at: new Date(),
        last_at: new Date(),
        count: 2,
      })),
    );
    await sql`select tell_unauthenticated(${more}::jsonb, 100)`.execute(platform.db.operator);
    await sql`select tell_unauthenticated(${more}::jsonb, 100)`.execute(platform.db.operator);
    expect((await told()).filter(({ reason }) => reason === 'expired')).toEqual([
      expect.objectContaining({ source: '', count: 3_600 }),
    ]);
  });

  test('are the operators’ to read, and nobody’s to change', async () => {
    for (const statement of ['select * from audit_unauthenticated', 'delete from audit_unauthenticated']) {
      await expect(platform.db.unscopedRead(sql.raw(statement).compile(platform.db.builder))).rejects.toMatchObject({
        code: '42501',
      });
    }
    await expect(sql`delete from audit_unauthenticated`.execute(platform.db.operator)).rejects.toMatchObject({
      code: '42501',
    });
  });
});
