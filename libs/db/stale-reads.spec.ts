/** What was prepared before a migration changed its columns is prepared anew, and nobody hears of it. */
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createPool, Database, isWorthRepeating } from '#libs/db';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { forgetPrepared } from './prepared.js';

let database: TestDatabase;
/** One connection each: the next statement meets what the last one has prepared. */
let db: Database;
beforeAll(async () => {
  database = await testDatabase();
  db = new Database({ app: database.connection, maxConnections: 1 });
  await sql`insert into tenant (id, display_name) values ('acme', 'A')`.execute(db.operator);
});
afterAll(async () => {
  await db?.close();
  await database?.close();
});

// Where many tests ran before in this process, nothing more would be prepared.
beforeEach(() => forgetPrepared());

let columns = 0;

async function migrateAgain(table: string): Promise<void> {
  const pool = createPool(database.connection, null, { max: 1 });
  await pool.query(`alter table ${table} add column migrated_${columns++} int`);
  await pool.end();
}

const nodes = () => sql`select * from node where name = ${'n'}`.compile(db.builder);
const resources = () => sql`select * from resource where tenant_id = ${'acme'}`.compile(db.builder);

test('reads, in a tenant’s scope and without one', async () => {
  for (let turn = 0; turn < 3; turn += 1) {
    expect(await db.unscopedRead(nodes())).toEqual([]);
    expect(await db.tenantRead('acme', resources())).toEqual([]);
    await migrateAgain('node');
    await migrateAgain('resource');
  }
});

test('a transaction says that it is worth repeating, and then succeeds', async () => {
  const read = () => db.tenantTransaction('acme', async (tx) => tx.executeQuery(resources()));
  // What the test above has left stale is prepared anew by a read.
  await db.tenantRead('acme', resources());
  await read();
  await migrateAgain('resource');
  const error = await read().catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: 'overloaded' });
  expect(isWorthRepeating(error)).toBe(true);
  expect((await read()).rows).toEqual([]);
});

test('a statement that nobody translates is prepared anew at its next time', async () => {
  const read = () => sql`select * from node where name = ${'x'}`.execute(db.operator);
  await read();
  await migrateAgain('node');
  await expect(read()).rejects.toMatchObject({ code: '0A000' });
  expect((await read()).rows).toEqual([]);
});
