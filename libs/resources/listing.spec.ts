/** Lists over a real database: selectors agree with `selects()`, and pages make the whole list. */
import 'reflect-metadata';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId, parseSelector, selects, type Tags } from '#libs/core';
import { kinds } from '#libs/kinds';
import { type Caller, KindRegistry, ResourceReader, type ResourceView } from '#libs/resources';
import { callerIn, type TestDatabase, testDatabase } from '#libs/testing';

const KEY = Buffer.alloc(32, 3);
const network = new KindRegistry(kinds).get('network');
let database: TestDatabase;
let reader: ResourceReader;

beforeAll(async () => {
  database = await testDatabase();
  reader = new ResourceReader(database.db, KEY);
});
afterAll(() => database?.close());

interface Row {
  name: string;
  tags: Tags;
  /** Milliseconds after a fixed time; many share one. */
  at: number;
}

async function tenant(): Promise<Caller> {
  const id = `t${newId().replaceAll('-', '').slice(-12)}`;
  await sql`insert into tenant (id, display_name) values (${id}, ${id})`.execute(database.db.operator);
  return callerIn(id);
}

async function insertNetworks(caller: Caller, rows: readonly Row[]): Promise<void> {
  const { tenantId } = caller.actor;
  const values = rows.map((row) => ({ ...row, id: newId(), at: new Date(1_700_000_000_000 + row.at) }));
  await database.db.operatorTransaction(async (tx) => {
    await sql`insert into resource (tenant_id, id, kind, name, tags, state, created_by, created_at)
      select ${tenantId}, v.id, 'network', v.name, v.tags, 'ready', 't', v.at
      from jsonb_to_recordset(${JSON.stringify(values)}::jsonb) as v (id uuid, name text, tags jsonb, at timestamptz)`.execute(
      tx,
    );
    await sql`insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
      select tenant_id, id, '10.0.0.0/24', '10.0.0.1', 1450, 253, '10.0.0.2' from resource
      where tenant_id = ${tenantId} and not exists (select 1 from network n where n.tenant_id = ${tenantId} and n.id = resource.id)`.execute(
      tx,
    );
  });
}

async function walk(caller: Caller, query: Record<string, string>, between?: (page: number) => Promise<void>) {
  const items: ResourceView[] = [];
  for (let pageToken: string | undefined, page = 0; ; page++) {
    const answer = await reader.list(caller, network, { ...query, ...(pageToken && { pageToken }) });
    items.push(...answer.items);
    expect(answer.items.length).toBeLessThanOrEqual(Number(query.pageSize ?? 50));
    if (answer.nextPageToken === null) return items;
    pageToken = answer.nextPageToken;
    await between?.(page);
  }
}

const tagKey = fc.constantFrom('tier', 'env', 'a/b', 'constructor');
const tagValue = fc.constantFrom('', 'x', 'y', 'Ü');
const tagSets = fc.array(fc.dictionary(tagKey, tagValue, { maxKeys: 3 }), { minLength: 1, maxLength: 12 });
const term = fc.oneof(
  tagKey,
  tagKey.map((k) => `!${k}`),
  fc.tuple(tagKey, fc.constantFrom('=', '!='), tagValue).map((parts) => parts.join('')),
  fc
    .tuple(tagKey, fc.constantFrom('in', 'notin'), fc.array(tagValue, { minLength: 1, maxLength: 3 }))
    .map(([k, op, values]) => `${k} ${op} (${values.join(',')})`),
);
const selectorText = fc.array(term, { minLength: 1, maxLength: 3 }).map((terms) => terms.join(','));

describe('selectors', () => {
  test('pick by SQL what selects() picks, and counts agree', async () => {
    await fc.assert(
      fc.asyncProperty(tagSets, fc.array(selectorText, { minLength: 4, maxLength: 4 }), async (sets, selectors) => {
        const caller = await tenant();
        const rows = sets.map((tags, i) => ({ name: `n${i}`, tags, at: i }));
        await insertNetworks(caller, rows);
        for (const tagSelector of selectors) {
          const wanted = rows.filter(({ tags }) => selects(parseSelector(tagSelector), tags)).map(({ name }) => name);
          const page = await reader.list(caller, network, { tagSelector, count: 'true' });
          expect(
            page.items.map(({ name }) => name),
            tagSelector,
          ).toEqual(wanted);
          expect(page.totalCount).toBe(wanted.length);
        }
      }),
      { numRuns: 25 },
    );
  });
});

describe('pages', () => {
  test('make the whole list in its order, also when many share a sort key', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.nat(3), { minLength: 1, maxLength: 25 }),
        fc.integer({ min: 1, max: 7 }),
        fc.constantFrom('name', '-name', 'createdAt', '-createdAt'),
        async (times, pageSize, sort) => {
          const caller = await tenant();
          await insertNetworks(
            caller,
            times.map((at, i) => ({ name: `n${i}`, tags: {}, at })),
          );
          const query = { sort, pageSize: String(pageSize) };
          const items = await walk(caller, query);
          expect(items).toEqual((await reader.list(caller, network, { sort, pageSize: '500' })).items);
          expect(new Set(items.map(({ id }) => id)).size).toBe(times.length);
          const keys = items.map((item) => String(item[sort.replace('-', '')]));
          const sorted = [...keys].sort();
          expect(keys).toEqual(sort.startsWith('-') ? sorted.reverse() : sorted);
        },
      ),
      { numRuns: 20 },
    );
  });

  test('lose and repeat nothing when others are made and removed meanwhile', async () => {
    const caller = await tenant();
    const rows = Array.from({ length: 40 }, (_, i) => ({
      name: `keep-${String(i).padStart(2, '0')}`,
      tags: {},
      at: i,
    }));
    await insertNetworks(caller, rows);
    const items = await walk(caller, { sort: 'name', pageSize: '7' }, async (page) => {
      await insertNetworks(caller, [
        { name: `a-new-${page}`, tags: {}, at: 0 },
        { name: `keep-${page}5-new`, tags: {}, at: 0 },
        { name: `z-new-${page}`, tags: {}, at: 0 },
      ]);
    });
    const names = items.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(names.filter((name) => /^keep-\d\d$/.test(name))).toEqual(rows.map(({ name }) => name));
  });

  test('are bound to their tenant and query', async () => {
    const [one, other] = [await tenant(), await tenant()];
    for (const caller of [one, other]) {
      await insertNetworks(
        caller,
        [1, 2, 3].map((at) => ({ name: `n${at}`, tags: {}, at })),
      );
    }
    const { nextPageToken } = await reader.list(one, network, { pageSize: '1', sort: 'name' });
    const pageToken = nextPageToken!;
    expect((await reader.list(one, network, { pageSize: '2', sort: 'name', pageToken })).items).toHaveLength(2);
    const refused = { code: 'invalid', details: { errors: [{ parameter: 'pageToken' }] } };
    await expect(reader.list(other, network, { sort: 'name', pageToken })).rejects.toMatchObject(refused);
    for (const query of [{ sort: '-name' }, { sort: 'name', state: 'ready' }, { sort: 'name', tagSelector: 'a' }, {}]) {
      await expect(reader.list(one, network, { ...query, pageToken }), JSON.stringify(query)).rejects.toMatchObject(
        refused,
      );
    }
    expect((await reader.list(one, network, { pageSize: '9999' })).items).toHaveLength(3);
  });
});
