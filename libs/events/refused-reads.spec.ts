/** Refused reads in the audit: each is there, and many of them are few rows. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import { RefusedReads } from '#libs/events';
import { type TestDatabase, testDatabase } from '#libs/testing';

let database: TestDatabase;
beforeAll(async () => {
  database = await testDatabase();
});
afterAll(() => database?.close());

const read = (tenantId: string, actor: string, resourceName: string) => ({
  tenantId,
  actor,
  action: 'network.read',
  kind: 'network',
  resourceName,
  code: 'not_found',
  requestId: 'r',
});

const rowsOf = (tenantId: string) =>
  database.db.operator
    .selectFrom('audit')
    .select(['actor', 'resource_name', 'details'])
    .where('tenant_id', '=', tenantId)
    .execute();

test('are written by themselves soon, the same ones once with their number', async () => {
  const reads = new RefusedReads(database.db, { warn: () => undefined });
  for (let i = 0; i < 3; i++) reads.tell(read('a', 'ann', 'theirs'));
  reads.tell(read('a', 'bob', 'theirs'));
  await expect.poll(async () => (await rowsOf('a')).length, { timeout: 10_000 }).toBe(2);
  expect(await rowsOf('a')).toEqual(
    expect.arrayContaining([
      { actor: 'ann', resource_name: 'theirs', details: { count: 3 } },
      { actor: 'bob', resource_name: 'theirs', details: null },
    ]),
  );
});

test('of thousands of names by thousands of actors are few rows, of which none of another tenant is missing', async () => {
  const reads = new RefusedReads(database.db, { warn: () => undefined });
  for (let i = 0; i < 5_000; i++) reads.tell(read('b', `actor-${i % 1_000}`, `n-${i}`));
  reads.tell(read('c', 'ann', 'theirs'));
  await reads.close();
  const rows = await rowsOf('b');
  expect(rows.length).toBeLessThanOrEqual(40);
  const count = rows.reduce((sum, { details }) => sum + ((details as { count?: number } | null)?.count ?? 1), 0);
  expect(count).toBe(5_000);
  expect(await rowsOf('c')).toHaveLength(1);
});

test('that cannot be written are told in the log and stop nothing', async () => {
  const told: object[] = [];
  const reads = new RefusedReads(database.db, { warn: (fields) => told.push(fields) });
  reads.tell(read('not a tenant id', 'ann', 'x'));
  await reads.flush();
  expect(told).toHaveLength(1);
});
