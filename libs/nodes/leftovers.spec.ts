/** What belongs to nothing in a real database: found by each rule, left alone while it may be a change under way, mended late. */
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { leftoverRules, openSession, sweepLeftovers } from '#libs/nodes';
import { nodeHello, type TestDatabase, testDatabase } from '#libs/testing';

let database: TestDatabase;
let nodeId: string;
const never = new AbortController().signal;

beforeAll(async () => {
  database = await testDatabase();
  await sql`insert into tenant (id, display_name) values ('acme', 'A')`.execute(database.db.operator);
  nodeId = (await openSession(database.db, nodeHello('n'), 'r:1')).nodeId;
});
afterAll(() => database?.close());

const look = () => sweepLeftovers(database.db, never);
const age = () => sql`update leftover set first_seen_at = now() - interval '2 hours'`.execute(database.db.operator);

async function found(): Promise<string[]> {
  const rows = await sql<{ rule: string }>`select rule from leftover order by rule`.execute(database.db.operator);
  return rows.rows.map(({ rule }) => rule);
}

/** One that each rule finds, and nothing else does. */
async function breakEverything(): Promise<void> {
  const { operator } = database.db;
  const resource = async (kind: string, state: string) => {
    const id = newId();
    await sql`insert into resource (tenant_id, id, kind, name, state, created_by)
      values ('acme', ${id}, ${kind}, ${id}, ${state}, 'x')`.execute(operator);
    return id;
  };
  await sql`insert into reservation (tenant_id, resource_id, node_id, vcpus, memory_mib, disk_gib)
    values ('acme', ${newId()}, ${nodeId}, 1, 1, 1)`.execute(operator);
  await sql`insert into placement (tenant_id, resource_id, node_id, kind, generation, present)
    values ('acme', ${newId()}, ${nodeId}, 'network', 1, true)`.execute(operator);
  await sql`insert into disk (tenant_id, id, size_gib, made, node_id)
    values ('acme', ${await resource('disk', 'ready')}, 1, true, ${nodeId})`.execute(operator);
  await sql`insert into instance (tenant_id, id, vcpus, memory_mib, desired_power_state, restart_policy)
    values ('acme', ${await resource('instance', 'ready')}, 1, 64, 'running', 'stay')`.execute(operator);
  await resource('network', 'updating');
  // A machine in the making, with the disk that comes with it: no fault, their job is under way.
  const [machine, boot] = [await resource('instance', 'provisioning'), await resource('disk', 'pending')];
  await sql`insert into instance (tenant_id, id, vcpus, memory_mib, desired_power_state, restart_policy)
    values ('acme', ${machine}, 1, 64, 'running', 'stay')`.execute(operator);
  await sql`insert into disk (tenant_id, id, size_gib, instance_id, slot, with_instance)
    values ('acme', ${boot}, 1, ${machine}, 0, true)`.execute(operator);
  await sql`insert into job (tenant_id, id, resource_id, kind, resource_name, action, created_by)
    values ('acme', ${newId()}, ${machine}, 'instance', 'x', 'create', 'x')`.execute(operator);
  await sql`insert into job (tenant_id, id, resource_id, kind, resource_name, action, created_by)
    values ('acme', ${newId()}, ${newId()}, 'network', 'x', 'delete', 'x')`.execute(operator);
  await sql`insert into deed (tenant_id, id, node_id, kind, resource_id, verb, repeatable)
    values ('acme', ${newId()}, ${nodeId}, 'instance', ${newId()}, 'reboot', true)`.execute(operator);
  await sql`insert into held_address (tenant_id, ip, node_id, resource_id, revision)
    values ('acme', '203.0.113.1', ${nodeId}, ${newId()}, 1)`.execute(operator);
  await sql`update node_load set vcpus = vcpus + 7`.execute(operator);
  await sql`call set_quota('acme', 'networks', 5)`.execute(operator);
  await sql`update quota set used = 3 where name = 'networks'`.execute(operator);
}

test('a database without faults has none; each rule finds its own, and what is safe is mended after an hour', async () => {
  await look();
  expect(await found()).toEqual([]);
  await breakEverything();
  await look();
  expect(await found()).toEqual(leftoverRules.map(({ name }) => name).sort());
  const open = () =>
    sql`select 1 from alarm where code = 'leftovers' and cleared_at is null`.execute(database.db.operator);
  expect((await open()).rows).toEqual([]);

  await look();
  await age();
  await look();
  expect((await open()).rows).toHaveLength(1);
  await look();
  const mended = leftoverRules.filter(({ mend }) => mend).map(({ name }) => name);
  expect(mended).toEqual(['reservation', 'held-address', 'deed', 'room', 'quota']);
  expect(await found()).toEqual(
    leftoverRules
      .filter(({ mend }) => !mend)
      .map(({ name }) => name)
      .sort(),
  );

  await sql`delete from placement`.execute(database.db.operator);
  await sql`delete from resource`.execute(database.db.operator);
  await sql`update job set state = 'failed', finished_at = now()`.execute(database.db.operator);
  await look();
  expect(await found()).toEqual([]);
  expect((await open()).rows).toEqual([]);
});

test('what was young is left alone', async () => {
  await sql`insert into reservation (tenant_id, resource_id, node_id, vcpus, memory_mib, disk_gib)
    values ('acme', ${newId()}, ${nodeId}, 1, 1, 1)`.execute(database.db.operator);
  for (let round = 0; round < 5; round++) await look();
  expect(await found()).toEqual(['reservation']);
});
