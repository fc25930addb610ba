/**
 * Every list that the API can be asked for, as rhyzome_app under row level security and by the plan that PostgreSQL keeps
 * for all tenants: it scans no table, and reads no more rows in a tenant of 24,000 resources than a page can need.
 */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { parseSelector, selects } from '#libs/core';
import { createPool } from '#libs/db';
import { kinds } from '#libs/kinds';
import { JobService, type KindDefinition, KindRegistry, listShapeOf, ResourceReader } from '#libs/resources';
import { callerIn, costOf, loadScale, SpyingDatabase, type TestDatabase, testDatabase } from '#libs/testing';

const KEY = Buffer.alloc(32, 6);
const SIZE = { total: 30_000, big: 24_000, small: 500 };
const PAGE = 10;
/**
 * What a page of ten may read, joins and counting included, whatever the tenant has: four counts of 300, the one that is
 * fetched, and a walk of a few thousand. A list of 12,000 that is read as a whole exceeds it.
 */
const MAX_ROWS_READ = 6_000;

const registry = new KindRegistry(kinds);
const network = registry.get('network');
const big = callerIn('big');
/** As many sets of tag keys, and values of one key, that they cannot be looked at one by one. */
const odd = callerIn('odd');

let database: TestDatabase;
let spy: SpyingDatabase;
let reader: ResourceReader;
let jobs: JobService;

const oddRows = `
set session_replication_role = origin;
insert into tenant (id, display_name) values ('odd', 'Odd');
insert into resource (tenant_id, id, kind, name, tags, state, created_by, created_at, updated_at)
  select 'odd', uuidv7(n * interval '1 second'), 'network', 'odd-' || n,
    case when n % 3 = 0 then '{}' else jsonb_build_object('k' || n % 50, 'x') end
      || case when n % 7 = 0 then '{}' else jsonb_build_object('v', 'v' || n % 40) end,
    case when n % 11 = 0 then 'failed' else 'ready' end, 't', now() + n / 4 * interval '1 second', now() - n * 7 % 100 * interval '1 second'
  from generate_series(1, 3000) n;
insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
  select tenant_id, id, '10.0.0.0/24', '10.0.0.1', 1450, 253, '10.0.0.2' from resource where tenant_id = 'odd';
analyze`;

beforeAll(async () => {
  database = await testDatabase();
  await loadScale(database.url, SIZE);
  const pool = createPool(database.connection, null, { max: 1 });
  await pool.query(oddRows);
  await pool.end();
  spy = new SpyingDatabase({ app: database.connection, maxConnections: 1 });
  reader = new ResourceReader(spy, KEY);
  jobs = new JobService(spy, registry, KEY, database.listener);
});
afterAll(async () => {
  await spy?.close();
  await database?.close();
});

async function expectBounded(what: string, work: () => Promise<unknown>): Promise<void> {
  spy.reads = [];
  await work();
  const { reads } = spy;
  expect(reads.length, what).toBeGreaterThan(0);
  for (const read of reads) {
    expect(read.inOrder, what).toBe(true);
    const { scanned, rowsRead, details } = await costOf(database.db, 'big', read);
    // Of nodes there are few.
    expect(
      scanned.filter((table) => table !== 'node'),
      `${what}\n${read.query.sql}`,
    ).toEqual([]);
    expect(rowsRead, `rows read by ${what}: ${details}`).toBeLessThan(MAX_ROWS_READ);
  }
}

const selectors = [
  'env=prod',
  'env=dev',
  'env in (dev,test)',
  'env!=prod',
  'env notin (dev,test)',
  'tier=t7',
  'tier!=t7',
  'team',
  '!team',
  'legacy',
  '!legacy',
  'legacy=yes',
  'nobody=has-it',
  'nobody',
  '!nobody',
  'env=prod,tier=t7,!legacy',
  'env!=dev,team,legacy',
];
const sorts = ['createdAt', '-createdAt', 'name', '-name', 'updatedAt', '-updatedAt'];

/** A value of each type, one that rows have and one that none has. */
const samples = {
  text: ['running', 'nothing'],
  uuid: ['01890000-0000-7000-8000-000000000000'],
  integer: ['1', '999'],
  boolean: ['true', 'false'],
  cidr: ['10.0.0.0/16', '10.9.0.0/16'],
};

function filtersOf(kind: KindDefinition): Record<string, string>[] {
  const own = Object.entries(listShapeOf(kind).filters).flatMap(([name, { type }]) =>
    samples[type].map((value) => ({ [name]: value })),
  );
  return [...own, { state: 'failed' }, { state: 'ready' }, { name: 'net-5' }];
}

describe('a page reads no more than a page', () => {
  // Sorts and selectors are the same for all kinds; what they have of their own is their filters.
  const lists = kinds.flatMap((kind) =>
    (kind === network ? ['createdAt', '-name', 'updatedAt'] : ['createdAt']).map(
      (sort) => [kind.plural, sort, kind] as const,
    ),
  );

  test.each(lists)('of %s by %s: all, each filter, each selector', async (_plural, sort, kind) => {
    const queries: Record<string, string>[] = [
      {},
      ...filtersOf(kind),
      // What a selector becomes is the same for all kinds.
      ...(kind === network ? selectors : selectors.slice(0, 2)).map((tagSelector) => ({ tagSelector })),
      { tagSelector: 'env=prod', state: 'failed' },
      { tagSelector: '!team', state: 'ready' },
    ];
    for (const asked of queries) {
      const query = { ...asked, sort, pageSize: String(PAGE) };
      await expectBounded(`${kind.plural} ${JSON.stringify(query)}`, async () => {
        const { nextPageToken } = await reader.list(big, kind, query);
        if (nextPageToken && kind === network) await reader.list(big, kind, { ...query, pageToken: nextPageToken });
      });
    }
  });

  test('of jobs, by each filter', async () => {
    const { items } = await jobs.list(big, { pageSize: '1' });
    const resource = (items[0]!.resource as { id: string }).id;
    const queries = [
      {},
      { state: 'failed' },
      { state: 'queued' },
      { action: 'delete' },
      { kind: 'image' },
      { resource },
    ];
    for (const query of queries) {
      for (const sort of ['createdAt', '-createdAt']) {
        await expectBounded(`jobs ${JSON.stringify(query)}`, () => jobs.list(big, { ...query, sort, pageSize: '10' }));
      }
    }
  });
});

test('each filter of a kind has an index in each order: its migration called filter_by', async () => {
  const { rows } = await sql<{ prefix: string }>`
    select i.indrelid::regclass || '.' || string_agg(a.attname, ',' order by k.n) as prefix
    from pg_index i, unnest(i.indkey) with ordinality k (attnum, n), pg_attribute a
    where k.n between 2 and 3 and a.attrelid = i.indrelid and a.attnum = k.attnum group by i.indexrelid, i.indrelid`.execute(
    database.db.operator,
  );
  const prefixes = new Set(rows.map(({ prefix }) => prefix));
  const missing = kinds.flatMap((kind) =>
    Object.values(kind.filters ?? {}).flatMap(({ column }) => {
      const [, name] = /^"k"\."(\w+)"$/.exec(sql`${column}`.compile(spy.builder).sql) ?? [];
      // An expression: a tenant has few of what is filtered so (public addresses by their ip).
      if (name === undefined) return [];
      const needed = ['resource_created_at', 'resource_name'].map((order) => `${kind.table}.${name},${order}`);
      return needed.filter((index) => !prefixes.has(index));
    }),
  );
  expect(missing.join()).toBe('');
});

test('a kind’s table knows the time and the name of its resource, also a new name', async () => {
  const { rows } = await sql`
    with renamed as (update resource set name = 'renamed' where tenant_id = 'odd' and name = 'odd-17' returning id)
    select 1 from renamed`.execute(database.db.operator);
  expect(rows.length).toBe(1);
  const { rows: different } = await sql<{ name: string }>`
    select r.name from resource r join network k on k.tenant_id = r.tenant_id and k.id = r.id
    where r.tenant_id = 'odd' and (k.resource_name, k.resource_created_at) is distinct from (r.name, r.created_at)`.execute(
    database.db.operator,
  );
  expect(different).toEqual([]);
  const named = await walk({ subnet: '10.0.0.0/24', sort: 'name' });
  expect(named.total).toBe(3000);
  expect(named.keys).toEqual(named.keys.toSorted());
  expect(named.keys).toContain('renamed');
});

describe('whichever way is taken, the same rows come in the same order', () => {
  const asked = [
    ...selectors,
    'v',
    '!v',
    'v!=v3',
    'v notin (v3,v4)',
    'v=v3',
    'k7',
    '!k7',
    '!k7,v=v8',
    '!k7,!v',
    'v=v5,k7',
    'v in (v5,v5),v notin (v6,v6)',
  ];

  test.each(asked)('for %s', async (tagSelector) => {
    const { rows } = await sql<{ id: string; tags: Record<string, string>; state: string }>`
      select id, tags, state, name, created_at, updated_at from resource where tenant_id = 'odd' and kind = 'network'`.execute(
      database.db.operator,
    );
    const selector = parseSelector(tagSelector);
    for (const state of [undefined, 'failed']) {
      const expected = rows.filter(
        (row) => selects(selector, row.tags) && (state === undefined || row.state === state),
      );
      for (const sort of sorts) {
        const listed = await walk({ tagSelector, sort, ...(state && { state }) });
        expect(listed.total).toBe(expected.length);
        expect(new Set(listed.ids)).toEqual(new Set(expected.map(({ id }) => id)));
        expect(listed.ids.length).toBe(expected.length);
        expect(listed.keys).toEqual(listed.keys.toSorted(compare(sort)));
      }
    }
  });
});

const compare = (sort: string) => (a: string, b: string) =>
  (a < b ? -1 : a > b ? 1 : 0) * (sort.startsWith('-') ? -1 : 1);

/** All pages of a list of `odd`; small first ones, so that what is few there is not few later. */
async function walk(query: Record<string, string>) {
  const ids: string[] = [];
  const keys: string[] = [];
  const field = query.sort!.replace('-', '');
  let total: number | undefined;
  for (let pageToken: string | undefined, pageSize = '2'; ; pageSize = '500') {
    const page = await reader.list(odd, network, {
      ...query,
      pageSize,
      ...(total === undefined && { count: 'true' }),
      ...(pageToken && { pageToken }),
    });
    total ??= page.totalCount;
    for (const item of page.items) {
      ids.push(item.id);
      keys.push((item as unknown as Record<string, string>)[field]!);
    }
    if (page.nextPageToken === null) return { ids, keys, total };
    pageToken = page.nextPageToken;
  }
}
