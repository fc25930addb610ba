/** Numbers of events under many writers and changing leaders, and what readers see of them. */
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId, parseSelector, type Tags } from '#libs/core';
import { createPool } from '#libs/db';
import { EventNumberer, EventReader, parseCursor, type TenantEvent } from '#libs/events';
import { type TestDatabase, testDatabase } from '#libs/testing';

let database: TestDatabase;
let reader: EventReader;
const numberers: EventNumberer[] = [];

beforeAll(async () => {
  database = await testDatabase();
  await database.listener.start();
  reader = new EventReader(database.db);
});
afterAll(async () => {
  await endNumberers();
  await database?.close();
});

function startNumberer(keepSeconds?: number): EventNumberer {
  const numberer = new EventNumberer(database.connection, database.listener, { keepSeconds });
  numberers.push(numberer);
  numberer.start();
  return numberer;
}

async function endNumberers(): Promise<void> {
  await Promise.all(numberers.splice(0).map((numberer) => numberer.close()));
}

async function tenant(): Promise<string> {
  const id = `t${newId().replaceAll('-', '').slice(-12)}`;
  await sql`insert into tenant (id, display_name) values (${id}, ${id})`.execute(database.db.operator);
  return id;
}

/** Each write is one event, told by the table's trigger. */
async function makeResource(tenantId: string, tags: Tags = {}): Promise<string> {
  const id = newId();
  await database.db.tenantTransaction(tenantId, (tx) =>
    sql`insert into resource (tenant_id, id, kind, name, tags, state, created_by)
      values (${tenantId}, ${id}, 'network', ${`n-${id.slice(-12)}`}, ${JSON.stringify(tags)}::jsonb, 'ready', 't')`.execute(
      tx,
    ),
  );
  return id;
}

async function touch(tenantId: string, id: string, holdMs = 0): Promise<void> {
  await database.db.tenantTransaction(tenantId, async (tx) => {
    await sql`update resource set generation = generation + 1 where tenant_id = ${tenantId} and id = ${id}`.execute(tx);
    if (holdMs > 0) await new Promise((resolve) => setTimeout(resolve, holdMs));
  });
}

async function allEvents(tenantId: string, count: number): Promise<TenantEvent[]> {
  await expect.poll(async () => (await reader.head(tenantId)).last, { timeout: 15_000, interval: 20 }).toBe(count);
  const events: TenantEvent[] = [];
  for (let since = 0; ; ) {
    const page = await reader.read(tenantId, since, {}, 37);
    events.push(...page.events);
    since = page.upTo;
    if (!page.more) return events;
  }
}

/** Ends the connection that has the leader's lock. */
async function killLeader(): Promise<void> {
  const pool = createPool(database.connection, null, { max: 1 });
  const killed =
    await pool.query(`select pg_terminate_backend(l.pid) from pg_locks l join pg_stat_activity a using (pid)
    where l.locktype = 'advisory' and l.granted and a.application_name = 'rhyzome events' and a.datname = current_database()`);
  expect(killed.rows).toHaveLength(1);
  await pool.end();
}

const dense = (events: TenantEvent[]) => expect(events.map((e) => e.number)).toEqual(events.map((_, i) => i + 1));

describe('numbering', () => {
  test('is dense in each tenant and in order for each resource, with 20 writers and a leader that dies', async () => {
    const tenants = [await tenant(), await tenant()];
    const resources = await Promise.all(
      tenants.flatMap((id) => [1, 2, 3].map(async () => [id, await makeResource(id)] as const)),
    );
    const first = startNumberer();
    await expect.poll(() => first.isLeader, { timeout: 15_000 }).toBe(true);
    const second = startNumberer();
    const writes = 30;
    const seen = new Map<string, TenantEvent[]>(tenants.map((id) => [id, []]));
    let writing = true;
    // A reader that follows: what it has passed never changes and nothing is put before it.
    const following = tenants.map(async (id) => {
      for (let since = 0; writing; ) {
        const page = await reader.read(id, since, {});
        seen.get(id)!.push(...page.events);
        since = page.upTo;
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
    });
    const writers = Array.from({ length: 20 }, async (_, writer) => {
      for (let i = 0; i < writes; i++) {
        const [id, resource] = resources[(writer + i) % resources.length]!;
        await touch(id, resource, i % 10 === 0 ? 5 : 0);
        if (writer === 0 && i === 10) {
          await killLeader();
        }
      }
    });
    await Promise.all(writers);
    const perTenant = (writes * 20) / 2 + 3;
    for (const id of tenants) {
      const events = await allEvents(id, perTenant);
      dense(events);
      expect(events).toHaveLength(perTenant);
      const generations = new Map<string, number>();
      for (const { resourceId, body } of events) {
        const before = generations.get(resourceId) ?? 0;
        expect(body.generation).toBe(before + 1);
        generations.set(resourceId, body.generation as number);
      }
    }
    writing = false;
    await Promise.all(following);
    for (const events of seen.values()) dense(events);
    expect([first.isLeader, second.isLeader].filter(Boolean)).toHaveLength(1);
  });

  test('gives one leader, and another when it leaves', async () => {
    await endNumberers();
    const one = startNumberer();
    await expect.poll(() => one.isLeader, { timeout: 15_000 }).toBe(true);
    const two = startNumberer();
    const id = await tenant();
    await makeResource(id);
    await allEvents(id, 1);
    expect(two.isLeader).toBe(false);
    numberers.splice(numberers.indexOf(one), 1);
    await one.close();
    await makeResource(id);
    dense(await allEvents(id, 2));
    expect(two.isLeader).toBe(true);
  });

  test('one that ends while it stands for election leaves no office behind', async () => {
    await endNumberers();
    for (let round = 0; round < 12; round++) {
      const brief = new EventNumberer(database.connection, database.listener);
      brief.start();
      await new Promise((resolve) => setTimeout(resolve, round * 2));
      await brief.close();
    }
    const next = startNumberer();
    await expect.poll(() => next.isLeader, { timeout: 15_000 }).toBe(true);
  });

  test('an event of a transaction that rolled back is none', async () => {
    const id = await tenant();
    const work = database.db.tenantTransaction(id, async (tx) => {
      await sql`insert into resource (tenant_id, id, kind, name, state, created_by)
        values (${id}, ${newId()}, 'network', 'x', 'ready', 't')`.execute(tx);
      throw new Error('no');
    });
    await expect(work).rejects.toThrow('no');
    await makeResource(id);
    const events = await allEvents(id, 1);
    expect(events).toMatchObject([{ number: 1, type: 'resource.created' }]);
  });
});

describe('reading', () => {
  test('resumes after any number without loss or repetition', async () => {
    const id = await tenant();
    const resource = await makeResource(id);
    for (let i = 0; i < 9; i++) await touch(id, resource);
    const all = await allEvents(id, 10);
    for (let since = 0; since <= 10; since++) {
      expect(await reader.resume(id, since)).toBe(since);
      expect((await reader.read(id, since, {})).events).toEqual(all.slice(since));
    }
    expect(await reader.resume(id, undefined)).toBe(10);
    const page = await reader.read(id, 0, {}, 4);
    expect(page).toMatchObject({ upTo: 4, more: true });
  });

  test('says that a cursor is too old when something after it is gone', async () => {
    await endNumberers();
    const id = await tenant();
    const resource = await makeResource(id);
    await touch(id, resource);
    startNumberer(3600);
    await allEvents(id, 2);
    await sql`update event set at = now() - interval '2 hours' where tenant_id = ${id} and number <= 2`.execute(
      database.db.operator,
    );
    await touch(id, resource);
    await allEvents(id, 3);
    await endNumberers();
    // The next leader prunes first.
    startNumberer(3600);
    await expect.poll(() => reader.head(id), { timeout: 8_000 }).toEqual({ last: 3, pruned: 2 });
    for (const since of [0, 1]) {
      await expect(reader.resume(id, since)).rejects.toMatchObject({ code: 'cursor_too_old' });
    }
    expect(await reader.resume(id, 2)).toBe(2);
    expect((await reader.read(id, 2, {})).events).toMatchObject([{ number: 3 }]);
  });

  test('by a selector tells what enters, stays, changes and leaves, and nothing else', async () => {
    const id = await tenant();
    const resource = await makeResource(id, { tier: 'back' });
    const retag = (tags: Tags) =>
      database.db.tenantTransaction(id, (tx) =>
        sql`update resource set tags = ${JSON.stringify(tags)}::jsonb where tenant_id = ${id} and id = ${resource}`.execute(
          tx,
        ),
      );
    await retag({ tier: 'front' });
    await retag({ tier: 'front', more: 'x' });
    await retag({});
    await retag({ tier: 'back' });
    await database.db.tenantTransaction(id, (tx) =>
      sql`delete from resource where tenant_id = ${id} and id = ${resource}`.execute(tx),
    );
    await allEvents(id, 6);
    const numbersOf = async (filter: Parameters<EventReader['read']>[2]) => {
      const page = await reader.read(id, 0, filter);
      expect(page.upTo).toBe(6);
      return page.events.map(({ number }) => number);
    };
    expect(await numbersOf({ selector: parseSelector('tier=front') })).toEqual([2, 3, 4]);
    expect(await numbersOf({ selector: parseSelector('tier=back') })).toEqual([1, 2, 5, 6]);
    expect(await numbersOf({ selector: parseSelector('!tier') })).toEqual([4, 5]);
    expect(await numbersOf({ kind: 'instance' })).toEqual([]);
    expect(await numbersOf({ readable: () => sql`false` })).toEqual([]);
    expect(await numbersOf({ resource })).toEqual([1, 2, 3, 4, 5, 6]);
    expect(await numbersOf({ resource: newId() })).toEqual([]);
  });

  test('shows a tenant none of another’s', async () => {
    const [one, other] = [await tenant(), await tenant()];
    await makeResource(one);
    await allEvents(one, 1);
    expect(await reader.head(other)).toEqual({ last: 0, pruned: 0 });
    expect((await reader.read(other, 0, {})).events).toEqual([]);
  });

  test.each([['-1'], ['1.5'], ['x'], ['1e3'], ['9'.repeat(16)], ['']])('refuses the cursor %j', (cursor) => {
    expect(() => parseCursor(cursor, { parameter: 'since' })).toThrow(
      expect.objectContaining({
        code: 'invalid',
        details: { errors: [expect.objectContaining({ parameter: 'since' })] },
      }),
    );
  });
});
