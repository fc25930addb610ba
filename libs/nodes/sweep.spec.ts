/** What nodes have and nobody owns, and what of it is removed when: on a real database, with inventories made by hand. */
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import type { Tx } from '#libs/db';
import {
  askDueFences,
  chooseUnowned,
  desire,
  inventoriesDue,
  type NodeSession,
  openSession,
  recordInventory,
  recordUnowned,
  withdraw,
} from '#libs/nodes';
import { Observed, Phase, UnownedResult } from '#libs/rpc';
import { type TestDatabase, testDatabase } from '#libs/testing';

const TENANT = 'acme';
let database: TestDatabase;
let node: NodeSession;
let nodes = 0;

beforeAll(async () => {
  database = await testDatabase();
  await sql`insert into tenant (id, display_name) values (${TENANT}, 'A')`.execute(database.db.operator);
});
afterAll(() => database?.close());
beforeEach(async () => {
  node = await connect(`n${++nodes}`);
  await sql`update installation set sweep_mode = 'remove', sweep_after = '24 hours'`.execute(database.db.operator);
});

const inTenant = <T>(work: (tx: Tx) => Promise<T>) => database.db.tenantTransaction(TENANT, work);
const connect = (name: string) =>
  openSession(
    database.db,
    { name, driver: 'test', agentVersion: '0', kinds: [], labels: {}, vcpus: 1, memoryMiB: 1, diskGiB: 1 },
    'replica:1',
  );

interface Thing {
  tenantId: string;
  kind: string;
  id: string;
}
const thing = (kind: string, tenantId = TENANT): Thing => ({ tenantId, kind, id: newId() });
const seen = (ref: Thing, status: object = {}): Observed =>
  Observed.fromPartial({ ref, phase: Phase.PHASE_READY, statusJson: JSON.stringify(status) });
const take = (things: Thing[], by = node) =>
  recordInventory(
    database.db,
    by,
    things.map((one) => seen(one)),
  );
const choose = () => chooseUnowned(database.db, node);
const place = (one: Thing) => inTenant((tx) => desire(tx, one, node.nodeId, { generation: 1, spec: { sizeBytes: 1 } }));

async function orphans() {
  const rows = await sql<{ kind: string; id: string; inventories: number; size_bytes: number | null; state: string }>`
    select kind, id, inventories, size_bytes, state from orphan where node_id = ${node.nodeId} order by kind`.execute(
    database.db.operator,
  );
  return rows.rows;
}

/** As if what nobody owns here had been seen for so long. */
const age = (interval: string) =>
  sql`update orphan set first_seen_at = now() - ${interval}::interval where node_id = ${node.nodeId}`.execute(
    database.db.operator,
  );

/** Placed, taken away, reported absent: what lies there nevertheless was deleted for good. */
async function deleted(kind: string): Promise<Thing> {
  const one = thing(kind);
  await place(one);
  await inTenant((tx) => withdraw(tx, one));
  await sql`delete from placement where resource_id = ${one.id}`.execute(database.db.operator);
  return one;
}

describe('what nobody owns', () => {
  test('is what is there without a placement, with what the node says of it', async () => {
    const [mine, leaving, nobodys] = [thing('network'), thing('network'), thing('disk', 'long0gone')];
    await place(mine);
    await place(leaving);
    await inTenant((tx) => withdraw(tx, leaving));
    await recordInventory(database.db, node, [seen(mine), seen(leaving), seen(nobodys, { sizeBytes: 2 ** 40 })]);
    await take([mine, leaving, nobodys]);
    expect(await orphans()).toEqual([{ kind: 'disk', id: nobodys.id, inventories: 2, size_bytes: null, state: null }]);
    expect(await recordInventory(database.db, node, [seen(nobodys, { sizeBytes: 7 })])).toEqual({
      orphans: 1,
      missing: 0,
    });
    expect(await orphans()).toMatchObject([{ size_bytes: 7, inventories: 3 }]);
  });

  test('begins anew after an inventory without it, and ends when it is placed', async () => {
    const one = thing('network');
    await take([one]);
    await take([one]);
    await take([]);
    expect(await orphans()).toEqual([]);
    await take([one]);
    expect(await orphans()).toMatchObject([{ inventories: 1 }]);
    await place(one);
    await take([one]);
    expect(await orphans()).toEqual([]);
    expect(await removals()).toEqual([]);
  });

  test('is not heard from a stream that was taken over', async () => {
    const old = node;
    node = await connect(`n${nodes}`);
    expect(await take([thing('network')], old)).toBeUndefined();
    await take([]);
    expect(await take([thing('network')], old)).toBeUndefined();
    expect(await orphans()).toEqual([]);
  });

  test('raises an alarm the second time, and clears it when it is gone', async () => {
    const alarms = async () =>
      (
        await sql<{ code: string; open: boolean }>`
          select code, cleared_at is null as open from alarm where node_id = ${node.nodeId}`.execute(
          database.db.operator,
        )
      ).rows;
    const one = thing('network');
    await take([one]);
    expect(await alarms()).toEqual([]);
    await take([one]);
    expect(await alarms()).toEqual([{ code: 'node_orphans', open: true }]);
    await take([]);
    expect(await alarms()).toEqual([{ code: 'node_orphans', open: false }]);
  });
});

async function removals() {
  const rows = await sql<{ id: string; approved_by: string | null }>`
    select id, approved_by from sweep_removal where node_id = ${node.nodeId} order by removed_at`.execute(
    database.db.operator,
  );
  return rows.rows;
}

async function audited() {
  const rows = await sql<{ text: string }>`
    select actor || ' ' || kind || ' ' || resource_id as text from audit
    where tenant_id = 'system' and action = 'sweep.removed' and details ->> 'nodeId' = ${node.nodeId} order by id`.execute(
    database.db.operator,
  );
  return rows.rows.map(({ text }) => text);
}

test('what a node had made and lacks is written down once it had the time to say so', async () => {
  const one = thing('network');
  await place(one);
  const ready = (ago: string) =>
    sql`update placement set observed_revision = revision, phase = 'ready', observed_at = now() - ${ago}::interval
      where resource_id = ${one.id}`.execute(database.db.operator);
  await ready('10 seconds');
  expect(await take([])).toEqual({ orphans: 0, missing: 0 });
  await ready('10 minutes');
  expect(await take([])).toEqual({ orphans: 0, missing: 1 });
  expect(await take([one])).toEqual({ orphans: 0, missing: 0 });
  await inTenant((tx) => withdraw(tx, one));
  expect(await take([])).toEqual({ orphans: 0, missing: 0 });
});

describe('what is removed', () => {
  test('has been nobody’s for a day and in two inventories', async () => {
    const one = thing('network');
    await take([one]);
    await age('25 hours');
    expect(await choose()).toEqual([]);
    await take([one]);
    await age('23 hours');
    expect(await choose()).toEqual([]);
    await age('25 hours');
    expect(await choose()).toEqual([one]);
    expect(await choose(), 'asked again while it is there').toEqual([one]);
    await take([]);
    expect(await removals()).toEqual([{ id: one.id, approved_by: null }]);
    expect(await audited()).toEqual([`admin:upkeep network ${one.id}`]);
  });

  test('is a tenth of what the node has a day, and at least one', async () => {
    const things = Array.from({ length: 29 }, () => thing('network'));
    const two = async () => {
      await take(things);
      await take(things);
      await age('2 days');
    };
    await two();
    const first = await choose();
    expect(first).toHaveLength(2);
    expect(await choose()).toEqual(first);
    for (const ref of first)
      await recordUnowned(database.db, node, { ref, result: UnownedResult.UNOWNED_RESULT_REMOVED, failure: undefined });
    expect(await removals()).toHaveLength(2);
    expect(await audited()).toHaveLength(2);
    expect(await choose()).toEqual([]);
    await sql`update sweep_removal set removed_at = now() - interval '25 hours' where node_id = ${node.nodeId}`.execute(
      database.db.operator,
    );
    expect(await choose()).toHaveLength(2);
    await sql`update orphan set approved_at = now(), approved_by = 'admin:x' where node_id = ${node.nodeId}`.execute(
      database.db.operator,
    );
    expect(await choose()).toHaveLength(27);
  });

  test('is no disk and no snapshot without a tombstone, whatever anybody says', async () => {
    const known = [await deleted('snapshot'), await deleted('disk')];
    const unknown = [thing('disk'), thing('snapshot')];
    const all = [...known, ...unknown];
    await take(all);
    await take(all);
    await sql`update orphan set approved_at = now(), approved_by = 'admin:x' where node_id = ${node.nodeId}`.execute(
      database.db.operator,
    );
    expect(await choose()).toEqual([known[0]]);
    await take([known[1]!, unknown[0]!]);
    expect(await choose()).toEqual([known[1]]);
    await place(known[1]!);
    await inTenant((tx) => tx.deleteFrom('placement').where('resource_id', '=', known[1]!.id).execute());
    await take([known[1]!, unknown[0]!]);
    expect(await choose(), 'wanted again, then lost: no tombstone').toEqual([]);
  });

  test('is first what builds on others', async () => {
    const [net, vm, elsewhere] = [thing('network'), thing('instance'), thing('network', 'globex')];
    await take([net, vm, elsewhere]);
    await take([net, vm, elsewhere]);
    await sql`update orphan set approved_at = now(), approved_by = 'admin:x' where node_id = ${node.nodeId}`.execute(
      database.db.operator,
    );
    expect(new Set(await choose())).toEqual(new Set([vm, elsewhere]));
    await take([net]);
    expect(await choose()).toEqual([net]);
  });

  test('is nothing where it is only to be reported, or a restored database was not compared yet', async () => {
    const one = thing('network');
    await take([one]);
    await take([one]);
    await age('2 days');
    await sql`update installation set sweep_mode = 'report'`.execute(database.db.operator);
    expect(await choose()).toEqual([]);
    await sql`update orphan set approved_at = now(), approved_by = 'admin:x' where node_id = ${node.nodeId}`.execute(
      database.db.operator,
    );
    await sql`insert into restoration (id, backup_id, backup_at, restored_by, numbers_from)
      values (${newId()}, ${newId()}, now(), 'x', 1)`.execute(database.db.operator);
    expect(await choose()).toEqual([]);
    await sql`update restoration set finished_at = now()`.execute(database.db.operator);
    expect(await choose()).toEqual([one]);
  });

  test('is asked for again when it failed, and waits anew when the node wants it', async () => {
    const one = thing('network');
    await take([one]);
    await take([one]);
    await age('2 days');
    const failure = { code: 'in_use', message: 'It is in use.' };
    await choose();
    await recordUnowned(database.db, node, { ref: one, result: UnownedResult.UNOWNED_RESULT_FAILED, failure });
    expect(await choose()).toEqual([one]);
    await recordUnowned(database.db, node, { ref: one, result: UnownedResult.UNOWNED_RESULT_KEPT, failure: undefined });
    await take([]);
    expect(await removals()).toEqual([]);
  });
});

test('an inventory is due after its time, and when an administrator wants one', async () => {
  const due = () => inventoriesDue(database.db, [node.nodeId], 60_000);
  expect(await due(), 'none was ever taken').toEqual([node.nodeId]);
  await take([]);
  expect(await due()).toEqual([]);
  await sql`update node_inventory set taken_at = now() - interval '2 minutes' where node_id = ${node.nodeId}`.execute(
    database.db.operator,
  );
  expect(await due()).toEqual([node.nodeId]);
  await take([]);
  await sql`update node_inventory set wanted_at = now() where node_id = ${node.nodeId}`.execute(database.db.operator);
  expect(await due()).toEqual([node.nodeId]);
});

test('no node is switched off by the clock while a restored database was not compared with the nodes', async () => {
  const { operator } = database.db;
  await sql`update node set last_seen_at = now() - interval '2 hours' where id = ${node.nodeId}`.execute(operator);
  await sql`update node set told_at = now() - interval '1 hour' where id = ${node.nodeId}`.execute(operator);
  const asked = async () =>
    (await sql`select 1 from node_fence where node_id = ${node.nodeId}`.execute(operator)).rows.length;
  await sql`insert into restoration (id, backup_id, backup_at, restored_by, numbers_from)
    values (${newId()}, ${newId()}, now(), 'x', 1)`.execute(operator);
  await askDueFences(database.db, 60);
  expect(await asked()).toBe(0);
  await sql`update restoration set finished_at = now()`.execute(operator);
  await askDueFences(database.db, 60);
  expect(await asked()).toBe(1);
});
