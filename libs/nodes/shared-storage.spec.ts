/** Shared storage as rows: who is let in under its name, and its room, which is one for all its nodes. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { releaseReservation, reserveNode } from './capacity.js';
import { type NodeHello, openSession } from './registry.js';

let database: TestDatabase;
const hello = (name: string, id?: string, more: Partial<NodeHello> = {}): NodeHello => ({
  ...{ name, driver: 'test', agentVersion: '1', kinds: ['disk'], labels: {}, vcpus: 4, memoryMiB: 1024, diskGiB: 100 },
  ...(id !== undefined && { storage: { name: 'pool-a', id } }),
  ...more,
});
const join = (name: string, id?: string, more?: Partial<NodeHello>) =>
  openSession(database.db, hello(name, id, more), 'replica');
const storageOf = async (name: string) => {
  const node = await database.db.operator
    .selectFrom('node')
    .select('storage')
    .where('name', '=', name)
    .executeTakeFirst();
  return node?.storage;
};

beforeAll(async () => {
  database = await testDatabase();
  await database.db.operator.insertInto('tenant').values({ id: 'one', display_name: 'One' }).execute();
});
afterAll(() => database?.close());

test('a node that sees other files under the name is refused, until nobody uses the first ones', async () => {
  const [first, second] = [newId(), newId()];
  await join('n1', first);
  await join('n2', first);
  expect(await storageOf('n2')).toBe('pool-a');
  await expect(join('n3', second)).rejects.toMatchObject({
    code: 'forbidden',
    message: expect.stringMatching(/pool-a/),
  });
  expect(await storageOf('n3')).toBeUndefined();
  await join('n1');
  await join('n2');
  expect(await storageOf('n2')).toBeNull();
  await join('n3', second);
  await expect(join('n1', first)).rejects.toMatchObject({ code: 'forbidden' });
  await join('n3');
});

test('its room is one, whichever node promises it, also at once; and is whole again', async () => {
  const id = newId();
  await join('n1', id);
  await join('n2', id);
  for (const name of ['n3', 'alone']) await join(name, undefined, { kinds: [] });
  const take = (diskGiB: number) => {
    const who = { tenantId: 'one', id: newId(), kind: 'disk' };
    return database.db
      .tenantTransaction('one', (tx) => reserveNode(tx, who, { vcpus: 0, memoryMiB: 0, diskGiB }))
      .then(
        (node) => ({ who, node }),
        (error: { code: string }) => error.code,
      );
  };
  const outcomes = await Promise.all(Array.from({ length: 24 }, () => take(10)));
  const taken = outcomes.flatMap((outcome) => (typeof outcome === 'string' ? [] : [outcome]));
  expect(taken).toHaveLength(10);
  expect(outcomes.filter((outcome) => outcome === 'no_capacity')).toHaveLength(14);
  const room = await sql<{ name: string; used: number }>`
    select n.name, m.used_disk_gib as used from node_room m join node n on n.id = m.node_id order by n.name`.execute(
    database.db.operator,
  );
  expect(room.rows.filter(({ name }) => /^n[12]$/.test(name))).toEqual([
    { name: 'n1', used: 100 },
    { name: 'n2', used: 100 },
  ]);
  expect((await sql`select * from node_room_drift`.execute(database.db.operator)).rows).toEqual([]);
  for (const { who } of taken) await database.db.tenantTransaction('one', (tx) => releaseReservation(tx, who));
  expect(await take(100)).toMatchObject({ node: expect.any(String) });
});
