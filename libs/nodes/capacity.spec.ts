/** Room on nodes: whoever asks at once, each node's is given once; what is given back is there again. */
import 'reflect-metadata';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { type Demand, releaseReservation, reserveNode, shrinkReservation, splitReservation } from './capacity.js';

let database: TestDatabase;
const tenants = ['one', 'two'];

beforeAll(async () => {
  database = await testDatabase();
  for (const id of tenants) {
    await database.db.operator.insertInto('tenant').values({ id, display_name: id }).execute();
  }
});
afterAll(() => database?.close());
beforeEach(async () => {
  await sql`delete from reservation`.execute(database.db.operator);
  await sql`delete from node`.execute(database.db.operator);
  await sql`update installation set vcpu_overcommit = 8, memory_overcommit = 1, disk_overcommit = 1, memory_reserve_mib = 0`.execute(
    database.db.operator,
  );
});

async function node(values: object = {}): Promise<string> {
  const id = newId();
  await database.db.operator
    .insertInto('node')
    .values({
      id,
      name: `n-${id.slice(-12)}`,
      driver: 'test',
      agent_version: '1',
      // Never silent.
      last_seen_at: new Date(Date.now() + 3_600_000),
      kinds: ['instance', 'disk'],
      ...{ vcpus: 4, memory_mib: 1024, disk_gib: 100, ...values },
    })
    .execute();
  return id;
}

interface Reserved {
  tenantId: string;
  id: string;
  kind: string;
  node: string;
}

async function reserve(
  demand: Demand,
  who: { tenantId?: string; id?: string; kind?: string } = {},
  isRefusedLater = false,
) {
  const owner = { tenantId: who.tenantId ?? 'one', id: who.id ?? newId(), kind: who.kind ?? 'instance' };
  const chosen = await database.db.tenantTransaction(owner.tenantId, async (tx) => {
    const found = await reserveNode(tx, owner, demand);
    if (isRefusedLater) throw new Error('name taken');
    return found;
  });
  return { ...owner, node: chosen } satisfies Reserved;
}

/** Calls so many times, `atOnce` of them at a time. */
async function eachOf<T>(count: number, atOnce: number, call: (i: number) => Promise<T>): Promise<T[]> {
  const results: T[] = [];
  let next = 0;
  const worker = async () => {
    for (let i = next++; i < count; i = next++) results.push(await call(i));
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return results;
}

async function drift(): Promise<unknown[]> {
  return (await sql`select * from node_room_drift`.execute(database.db.operator)).rows;
}

describe('room', () => {
  test('for 37 machines of two tenants is given to 37 of 200 that ask at once, and each refused one is told so', async () => {
    // 12 + 12 + 13, by what is short on each: memory, processors with their factor, disk with its factor.
    const nodes = [
      await node({ memory_mib: 12 * 128, vcpus: 1000, disk_gib: 1000 }),
      await node({ memory_mib: 100_000, vcpus: 3, vcpu_overcommit: 4, disk_gib: 1000 }),
      await node({ memory_mib: 100_000, vcpus: 1000, disk_gib: 18, disk_overcommit: 1.5 }),
    ];
    const demand = { vcpus: 1, memoryMiB: 128, diskGiB: 2 };
    const ask = (i: number) => Promise.allSettled([reserve(demand, { tenantId: tenants[i % 2] })]);
    // As many at once as the pool has connections, several times over.
    const outcomes = (await eachOf(200, 40, ask)).flat();
    const made = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    expect(nodes.map((id) => made.filter(({ node: chosen }) => chosen === id).length)).toEqual([12, 12, 13]);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'no_capacity' });
    }
    expect(await drift()).toEqual([]);
    for (const owner of made.slice(0, 5)) {
      await database.db.tenantTransaction(owner.tenantId, (tx) => releaseReservation(tx, owner));
    }
    expect(await drift()).toEqual([]);
    const again = await Promise.allSettled(Array.from({ length: 20 }, () => reserve(demand)));
    expect(again.filter(({ status }) => status === 'fulfilled')).toHaveLength(5);
    expect(await drift()).toEqual([]);
  }, 60_000);

  test('is exact whatever is taken, refused later, given back, made smaller and split at once', async () => {
    const size = fc.record({
      vcpus: fc.integer({ min: 0, max: 6 }),
      memoryMiB: fc.integer({ min: 0, max: 500 }),
      diskGiB: fc.integer({ min: 1, max: 40 }),
    });
    const after = fc.constantFrom('keep', 'release', 'shrink', 'split', 'fail');
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ size, after, tenant: fc.constantFrom(...tenants) }), { minLength: 1, maxLength: 24 }),
        fc.integer({ min: 50, max: 200 }),
        async (asked, percent) => {
          await sql`delete from reservation`.execute(database.db.operator);
          await sql`delete from node`.execute(database.db.operator);
          await node({ memory_overcommit: percent / 100 });
          await node({ disk_overcommit: Math.max(percent / 100, 0.5), memory_reserve_mib: 300 });
          await Promise.all(
            asked.map(async ({ size: demand, after: then, tenant: tenantId }) => {
              const owner = await reserve(demand, { tenantId }, then === 'fail').catch((error: Error) => {
                expect(error.message).toMatch(/name taken|have the room|has the room/);
              });
              if (!owner) return;
              await database.db.tenantTransaction(tenantId, async (tx) => {
                if (then === 'release') await releaseReservation(tx, owner);
                if (then === 'shrink') await shrinkReservation(tx, owner.id, { vcpus: 1, memoryMiB: 10, diskGiB: 1 });
                if (then === 'split') await splitReservation(tx, owner.id, newId(), demand.diskGiB);
              });
            }),
          );
          expect(await drift()).toEqual([]);
          const over = await sql`select * from node_room
            where used_vcpus > vcpus or used_memory_mib > memory_mib or used_disk_gib > disk_gib`.execute(
            database.db.operator,
          );
          expect(over.rows).toEqual([]);
        },
      ),
      { numRuns: 15 },
    );
  }, 60_000);

  test('follows the installation’s factors, a node’s own, and what is never promised of its memory', async () => {
    await sql`update installation set vcpu_overcommit = 2, memory_overcommit = 1.5, disk_overcommit = 2,
      memory_reserve_mib = 24`.execute(database.db.operator);
    await node();
    const most = { vcpus: 8, memoryMiB: 1500, diskGiB: 200 };
    for (const measure of ['vcpus', 'memoryMiB', 'diskGiB'] as const) {
      const refused = reserve({ ...most, [measure]: most[measure] + 1 });
      await expect(refused).rejects.toMatchObject({ details: { extensions: { short: [measure], wouldFit: most } } });
    }
    const owner = await reserve(most);
    await database.db.tenantTransaction('one', (tx) => releaseReservation(tx, owner));
    await sql`update node set vcpu_overcommit = 1, memory_overcommit = 1, disk_overcommit = 1, memory_reserve_mib = 0`.execute(
      database.db.operator,
    );
    await expect(reserve({ vcpus: 5, memoryMiB: 1, diskGiB: 1 })).rejects.toMatchObject({
      details: { extensions: { wouldFit: { vcpus: 4, memoryMiB: 1024, diskGiB: 100 } } },
    });
  });

  test('that a machine has it keeps, and may exchange, also where the node has less than was promised', async () => {
    const id = await node();
    const owner = await reserve({ vcpus: 2, memoryMiB: 1000, diskGiB: 0 });
    const other = await reserve({ vcpus: 1, memoryMiB: 24, diskGiB: 10 });
    await sql`update node set memory_mib = 512`.execute(database.db.operator);
    const change = (demand: Demand, who: Reserved) =>
      database.db.tenantTransaction('one', (tx) => reserveNode(tx, who, demand, { only: [id], stays: true }));
    await change({ vcpus: 4, memoryMiB: 1000, diskGiB: 0 }, owner);
    await expect(change({ vcpus: 4, memoryMiB: 1001, diskGiB: 0 }, owner)).rejects.toMatchObject({
      code: 'no_capacity',
      message: expect.stringContaining('Its node does not have the room: memoryMiB is short.'),
    });
    await change({ vcpus: 1, memoryMiB: 24, diskGiB: 20 }, other);
    expect(await drift()).toEqual([]);
    const room = await sql`select used_vcpus, used_memory_mib, used_disk_gib from node_room`.execute(
      database.db.operator,
    );
    expect(room.rows).toEqual([{ used_vcpus: 5, used_memory_mib: 1024, used_disk_gib: 20 }]);
  });

  test('is taken where the largest part of the memory is free, and elsewhere while somebody takes room there', async () => {
    const small = await node({ memory_mib: 1000 });
    const large = await node({ memory_mib: 4000 });
    const demand = { vcpus: 1, memoryMiB: 500, diskGiB: 1 };
    const who = (tenantId = 'one') => ({ tenantId, id: newId(), kind: 'instance' });
    await database.db.tenantTransaction('one', async (tx) => {
      const first = await reserveNode(tx, who(), demand);
      // Does not wait for the transaction that is open.
      const meanwhile = await reserve(demand, { tenantId: 'two' });
      expect([first, meanwhile.node].sort()).toEqual([small, large].sort());
    });
    // Half of the small one is taken, an eighth of the large one.
    for (let n = 0; n < 3; n++) expect((await reserve(demand)).node).toBe(large);
  });
});
