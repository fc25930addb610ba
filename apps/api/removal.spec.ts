/** Removals of many over HTTP: parameters, keys and answers. */
import 'reflect-metadata';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import { type Platform, startPlatform } from '#libs/testing';
import { type Asked, askAt, expectProblem, serve } from './test-server.js';

let platform: Platform;
let app: NestFastifyApplication;
let base: string;
beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await platform.tenant('acme');
  app = await serve(platform);
  base = await app.getUrl();
});
afterAll(async () => {
  await app?.close();
  await platform?.close();
});

const ask = (path: string, asked?: Asked) => askAt(base, path, asked);
const remove = (path: string, headers?: Record<string, string>) => ask(path, { method: 'DELETE', headers });

async function make(name: string, more: object = {}): Promise<string> {
  const body = { name, subnet: '10.0.0.0/24', tags: { batch: 'a' }, ...more };
  const answer = await ask('/v1/networks?wait=20s', { method: 'POST', body });
  expect(answer.status, answer.text).toBe(200);
  return answer.body.id;
}

test('cascade=true takes dependants with it, and is part of what a key stands for', async () => {
  const [root, leaf] = [await make('root'), await make('leaf')];
  await sql`insert into dependency (tenant_id, resource_id, target_tenant_id, target_id, relation)
    values ('acme', ${leaf}, 'acme', ${root}, 'needs')`.execute(platform.db.operator);
  const { body } = await expectProblem(remove('/v1/networks/root'), 409, 'in_use');
  expect(body.blockers).toEqual([{ kind: 'network', id: leaf, name: 'leaf', relation: 'needs' }]);
  expect(body.detail).toContain('cascade=true');
  await expectProblem(remove('/v1/networks/root?cascade=yes'), 422, 'invalid');
  await expectProblem(ask('/v1/networks/root?cascade=true'), 422, 'invalid');
  const dry = await remove('/v1/networks/root?cascade=true&dryRun=true');
  expect(dry.body.cascade).toEqual([{ kind: 'network', id: leaf, name: 'leaf' }]);
  expect(dry.body.job).toBeUndefined();
  const key = { 'idempotency-key': 'cascade-1' };
  const done = await remove('/v1/networks/root?cascade=true&wait=20s', key);
  expect(done).toMatchObject({ status: 200, body: { id: root, job: { state: 'succeeded' } } });
  expect(done.body.cascade).toMatchObject([{ id: leaf, job: { state: 'queued' } }]);
  const replay = await remove('/v1/networks/root?cascade=true', key);
  expect(replay.headers.get('idempotency-replayed')).toBe('true');
  expect(replay.body.job.id).toBe(done.body.job.id);
  await expectProblem(remove('/v1/networks/root', key), 422, 'idempotency_key_reused');
  await expectProblem(ask(`/v1/networks/${leaf}`), 404, 'not_found');
});

test('a selector takes what it picks, once for a key', async () => {
  for (const name of ['b1', 'b2']) await make(name, { tags: { batch: 'b' } });
  await make('b3', { tags: { batch: 'b' }, deletionProtection: true });
  await expectProblem(remove('/v1/networks'), 422, 'invalid');
  await expectProblem(remove('/v1/networks?tagSelector='), 422, 'invalid');
  await expectProblem(remove('/v1/networks?tagSelector=batch%3Db&wait=3s'), 422, 'invalid');
  await expectProblem(
    ask('/v1/networks?tagSelector=batch', { method: 'DELETE', token: 'viewer.acme' }),
    403,
    'forbidden',
  );
  await expectProblem(remove('/v1/jobs?tagSelector=a'), 405, 'method_not_allowed');
  const path = '/v1/networks?tagSelector=batch%3Db';
  const dry = await remove(`${path}&dryRun=true`);
  expect(dry.body.items.map(({ status }: { status: number }) => status).sort()).toEqual([200, 200, 409]);
  const key = { 'idempotency-key': 'bulk-1' };
  const done = await remove(path, key);
  expect(done.status).toBe(200);
  expect(done.body.remaining).toBe(0);
  expect(done.body.items.map(({ status }: { status: number }) => status).sort()).toEqual([202, 202, 409]);
  const again = await remove(path, key);
  expect(again.headers.get('idempotency-replayed')).toBe('true');
  expect(again.body).toEqual(done.body);
  await expectProblem(remove('/v1/networks?tagSelector=batch%3Dc', key), 422, 'idempotency_key_reused');
  for (const { job } of done.body.items) {
    if (job) expect((await ask(`/v1/jobs/${job.id}?wait=20s`)).body.state).toBe('succeeded');
  }
  const left = await ask('/v1/networks?tagSelector=batch%3Db');
  expect(left.body.items.map(({ name }: { name: string }) => name)).toEqual(['b3']);
});
