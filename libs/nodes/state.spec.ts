/** The states of a node, on a real database: one definition, and every change written down. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { createPool } from '#libs/db';
import { countNodes, heartbeat, NodeWatch, openSession, reserveNode } from '#libs/nodes';
import { nodeHello, type TestDatabase, testDatabase } from '#libs/testing';

let database: TestDatabase;
let watch: NodeWatch;
beforeAll(async () => {
  database = await testDatabase();
  await sql`insert into tenant (id, display_name) values ('acme', 'A')`.execute(database.db.operator);
  const warn = (fields: object, message: string) => {
    throw new Error(`${message}: ${JSON.stringify(fields)}`);
  };
  watch = new NodeWatch(database.db, { log: { warn } });
});
afterAll(() => database?.close());

function register(name = `n-${newId().slice(-8)}`) {
  const room = { vcpus: 2, memoryMiB: 1024, diskGiB: 10 };
  return openSession(database.db, nodeHello(name, { kinds: ['instance'], ...room }), 'replica:1');
}

async function change(nodeId: string, values: ReturnType<typeof sql>): Promise<void> {
  await sql`update node set ${values} where id = ${nodeId}`.execute(database.db.operator);
}

/** Half a minute goes by: the clock changes no row, so no trigger sees it. */
async function passSilently(nodeId: string): Promise<void> {
  const pool = createPool(database.connection, null, { max: 1 });
  try {
    await pool.query('set session_replication_role = replica');
    await pool.query("update node set last_seen_at = now() - interval '31 seconds' where id = $1", [nodeId]);
  } finally {
    await pool.end();
  }
}

async function told(nodeId: string): Promise<string[]> {
  const events = await sql<{ from_state: string | null; to_state: string }>`
    select from_state, to_state from node_event where node_id = ${nodeId} order by id`.execute(database.db.operator);
  return events.rows.map(({ from_state, to_state }) => `${from_state} > ${to_state}`);
}

describe('the state of a node', () => {
  test('is told with each change, silence included, once', async () => {
    const session = await register();
    const { nodeId } = session;
    await change(nodeId, sql`cordoned = true`);
    await change(nodeId, sql`draining = true`);
    await change(nodeId, sql`cordoned = false, draining = false`);
    await change(nodeId, sql`last_seen_at = now() - interval '29 seconds'`);
    await watch.round();
    expect(await told(nodeId)).toEqual(['null > up', 'up > cordoned', 'cordoned > draining', 'draining > up']);
    await passSilently(nodeId);
    await Promise.all([watch.round(), watch.round()]);
    await watch.round();
    expect((await told(nodeId)).slice(4)).toEqual(['up > unreachable']);
    expect(await heartbeat(database.db, session, undefined)).toBe(true);
    await change(nodeId, sql`gone_at = now()`);
    await heartbeat(database.db, session, undefined);
    expect((await told(nodeId)).slice(5)).toEqual(['unreachable > up', 'up > gone']);
  });

  test('counts: only one that is up takes what is new', async () => {
    await sql`update node set cordoned = true`.execute(database.db.operator);
    const { nodeId } = await register();
    const who = { tenantId: 'acme', id: newId(), kind: 'instance' };
    const reserve = () =>
      database.db.tenantTransaction('acme', (tx) => reserveNode(tx, who, { vcpus: 1, memoryMiB: 64, diskGiB: 1 }));
    expect(await reserve()).toBe(nodeId);
    const before = await countNodes(database.db);
    const changes = {
      cordoned: sql`cordoned = true`,
      draining: sql`draining = true`,
      unreachable: sql`last_seen_at = now() - interval '1 minute'`,
      gone: sql`gone_at = now()`,
    };
    for (const [state, values] of Object.entries(changes)) {
      await change(nodeId, values);
      await expect(reserve(), state).rejects.toMatchObject({ code: 'no_capacity' });
    }
    expect(await countNodes(database.db)).toEqual({ ...before, up: before.up - 1, gone: before.gone + 1 });
  });

  test('is away from the moment that this is known, not from its last heartbeat', async () => {
    const { nodeId } = await register();
    const since = async () => {
      const found = await sql<{ since: Date | null }>`
        select node_away_since(n) as since from node n where id = ${nodeId}`.execute(database.db.operator);
      return found.rows[0]!.since;
    };
    expect(await since()).toBeNull();
    const before = Date.now();
    await change(nodeId, sql`last_seen_at = now() - interval '1 hour'`);
    expect((await since())!.getTime()).toBeGreaterThanOrEqual(before - 1_000);
  });
});
