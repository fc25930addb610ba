/** Whose job is claimed first, and what claiming costs where very many wait. */
import { sql } from 'kysely';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { claimDue, dueJobs } from './queue.js';

const MANY = 100_000;
let database: TestDatabase;

beforeAll(async () => {
  database = await testDatabase();
});
afterEach(() => asSuperuser('truncate job cascade'));
afterAll(() => database?.close());

/** Rows without their events: only claiming is looked at. */
async function asSuperuser(text: string, parameters: unknown[] = []): Promise<void> {
  const client = new pg.Client(database.connection);
  await client.connect();
  try {
    await client.query('set session_replication_role = replica');
    await client.query(text, parameters);
  } finally {
    await client.end();
  }
}

async function enqueue(tenantId: string, count: number, secondsAgo: number): Promise<void> {
  await asSuperuser("insert into tenant (id, display_name) values ($1, 'T') on conflict do nothing", [tenantId]);
  await asSuperuser(
    `insert into job (tenant_id, id, resource_id, kind, resource_name, action, created_by, run_at)
      select $1, gen_random_uuid(), gen_random_uuid(), 'thing', 'thing', 'create', 'test',
        now() - make_interval(secs => $2) + n * interval '1 microsecond' from generate_series(1, $3::int) n`,
    [tenantId, secondsAgo, count],
  );
}

async function claim(limit: number): Promise<string[]> {
  const rows = await claimDue(database.db, newId(), 60_000, limit);
  return rows.map((row) => row.tenant_id).sort();
}

/** Of a statement along indexes: the blocks that it looked at. */
async function blocksOf(limit: number): Promise<number> {
  const query = sql<{ 'QUERY PLAN': string }>`explain (analyze, buffers, costs off) ${dueJobs(limit)}`;
  const rows = await database.db.operatorInOrder(query.compile(database.db.builder));
  const plan = rows.map((row) => row['QUERY PLAN']).join('\n');
  return Number(/Buffers: shared hit=(\d+)/.exec(plan)![1]);
}

test('takes turns between tenants, whoever came first, and counts what is being run', async () => {
  await enqueue('big', 20, 60);
  await enqueue('mid', 3, 30);
  await enqueue('small', 1, 1);
  expect(await claim(4)).toEqual(['big', 'big', 'mid', 'small']);
  // Two of `big` are being run and one of each other: `mid` comes first now.
  expect(await claim(1)).toEqual(['mid']);
  expect(await claim(2)).toEqual(['big', 'mid']);
  expect(await claim(3)).toEqual(['big', 'big', 'big']);
});

test('within a tenant takes who has waited the longest', async () => {
  await enqueue('big', 5, 60);
  const all = await sql<{ id: string }>`select id from job order by run_at`.execute(database.db.operator);
  const claimed = await claimDue(database.db, newId(), 60_000, 2);
  expect(claimed.map(({ id }) => id).sort()).toEqual([all.rows[0]!.id, all.rows[1]!.id].sort());
});

test('many at once claim each job once, and all of them', async () => {
  await enqueue('big', 300, 60);
  await enqueue('small', 20, 1);
  const claimed = new Set<string>();
  let rounds = 0;
  while (claimed.size < 320 && rounds++ < 60) {
    const all = await Promise.all(Array.from({ length: 6 }, () => claimDue(database.db, newId(), 60_000, 10)));
    for (const { id } of all.flat()) {
      expect(claimed).not.toContain(id);
      claimed.add(id);
    }
  }
  expect(claimed.size).toBe(320);
});

test('what workers died of rests before it is claimed again, and longer each time', async () => {
  await enqueue('big', 1, 60);
  const ended = (secondsAgo: number, crashes: number) =>
    sql`update job set lease_owner = 'gone', lease_until = now() - make_interval(secs => ${secondsAgo}), crashes = ${crashes}`.execute(
      database.db.operator,
    );
  await ended(1, 2);
  expect(await claimDue(database.db, newId(), 60_000, 1)).toMatchObject([{ crashes: 3 }]);
  await ended(15, 5);
  expect(await claim(1)).toEqual([]);
  await ended(25, 5);
  expect(await claimDue(database.db, newId(), 60_000, 1)).toMatchObject([{ crashes: 6 }]);
});

test('costs the same with a hundred thousand due, for the tenant that has them and for another', async () => {
  await enqueue('big', MANY, 60);
  // Also where the planner knows nothing of them yet.
  for (const prepare of ['select', 'analyze job']) {
    await asSuperuser(prepare);
    await enqueue('small', 1, 1);
    expect(await blocksOf(4)).toBeLessThan(300);
    expect(await claim(2)).toEqual(['big', 'small']);
    await asSuperuser('update job set lease_owner = null, lease_until = null where lease_owner is not null');
    await asSuperuser("delete from job where tenant_id = 'small'");
  }
}, 60_000);
