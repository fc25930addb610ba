/**
 * What grants let their subject see, in SQL: lists, counts, jobs and events show just what `reaches` says, on indexes, and
 * without a statement more.
 */
import 'reflect-metadata';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type AccessRule, reaches, reachOf } from '#libs/auth';
import { newId, parseSelector, type Tags } from '#libs/core';
import { createPool } from '#libs/db';
import { EventReader } from '#libs/events';
import { kinds } from '#libs/kinds';
import {
  AlarmService,
  type AlarmView,
  type Caller,
  JobService,
  KindRegistry,
  ResourceReader,
  readableAudit,
  readableEvents,
} from '#libs/resources';
import { costOf, loadScale, SpyingDatabase, type TestDatabase, testDatabase } from '#libs/testing';

const KEY = Buffer.alloc(32, 9);
const registry = new KindRegistry(kinds);
const network = registry.get('network');
/** A page of ten may look through some pages, look up some hundreds, and walk past what is not seen. */
const MAX_ROWS_READ = 6_000;

let database: TestDatabase;
let spy: SpyingDatabase;
let reader: ResourceReader;
let jobs: JobService;
let alarms: AlarmService;
let events: EventReader;

interface Row {
  id: string;
  tags: Tags;
  createdBy: string;
}
let few: Row[];

const fewRows = `
insert into tenant (id, display_name) values ('few', 'Few');
insert into resource (tenant_id, id, kind, name, tags, state, created_by, created_at)
  select 'few', uuidv7(n * interval '1 second'), 'network', 'few-' || n,
    case when n % 5 = 0 then '{}' else jsonb_build_object('a', 'x' || n % 4) end
      || case when n % 3 = 0 then '{}' else jsonb_build_object('b', 'y' || n % 5) end
      || case when n % 2 = 0 then '{}' else jsonb_build_object('c', '') end,
    'ready', 'maker-' || n % 6, now() + n / 4 * interval '1 second'
  from generate_series(1, 120) n;
insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
  select tenant_id, id, '10.0.0.0/24', '10.0.0.1', 1450, 253, '10.0.0.2' from resource where tenant_id = 'few';
insert into job (tenant_id, id, resource_id, kind, resource_name, resource_tags, action, created_by)
  select tenant_id, uuidv7(), id, kind, name, '{}', 'create', created_by from resource where tenant_id = 'few';
insert into alarm (tenant_id, code, severity, cause, kind, resource_id, resource_name, message)
  select tenant_id, 'job_overdue', 'warning', id::text, kind, id, name, 'm' from resource where tenant_id = 'few'
  union all values ('few', 'job_overdue', 'warning', 'none', null, null::uuid, null, 'about no resource');
insert into audit (tenant_id, id, actor, action, kind, resource_id, result)
  select tenant_id, uuidv7(), 't', 'network.create', 'network', id, 'done' from resource where tenant_id = 'few'
  union all select tenant_id, uuidv7(), 't', 'job.cancel', 'job', id, 'done' from job where tenant_id = 'few'
  union all values ('few', uuidv7(), 't', 'token.refused', null, null::uuid, 'refused'), ('few', uuidv7(), 't', 'network.create', 'network', null, 'refused');
update event e set number = n.number from (select id, row_number() over (order by id) as number from event where tenant_id = 'few') n
  where e.tenant_id = 'few' and e.id = n.id;
analyze`;

beforeAll(async () => {
  database = await testDatabase();
  await loadScale(database.url, { total: 25_000, big: 20_000, small: 500 });
  const pool = createPool(database.connection, null, { max: 1 });
  await pool.query(fewRows);
  await pool.end();
  spy = new SpyingDatabase({ app: database.connection, maxConnections: 1 });
  reader = new ResourceReader(spy, KEY);
  jobs = new JobService(spy, registry, KEY, database.listener);
  alarms = new AlarmService(spy, registry, KEY);
  events = new EventReader(spy);
  const { rows } = await sql<{ id: string; tags: Tags; created_by: string }>`
    select id, tags, created_by from resource where tenant_id = 'few' order by created_at, id`.execute(
    database.db.operator,
  );
  few = rows.map(({ id, tags, created_by: createdBy }) => ({ id, tags, createdBy }));
});
afterAll(async () => {
  await spy?.close();
  await database?.close();
});

type Grant = { selector: string } | { ids: string[] };

function granted(tenantId: string, grants: readonly Grant[], kind = 'network'): Caller {
  const rules = grants.map(
    (grant, n): AccessRule => ({
      grant: { id: newId(), name: `grant-${n}` },
      verbs: ['read'],
      kinds: [kind],
      selector: 'selector' in grant ? parseSelector(grant.selector) : null,
      ids: 'ids' in grant ? grant.ids : null,
    }),
  );
  const actor = { tenantId, subject: 'somebody', roles: [], scopes: null, via: 'token' as const, rules };
  return { actor, requestId: newId() };
}

const expected = ({ actor }: Caller) => few.filter((row) => reaches(reachOf(actor, 'read', 'network'), row));

async function listed(caller: Caller, query: Record<string, string>) {
  const ids: string[] = [];
  let total: number | undefined;
  for (let pageToken: string | undefined; ; ) {
    const count = total === undefined ? { count: 'true' } : undefined;
    const page = await reader.list(caller, network, { ...query, ...count, ...(pageToken && { pageToken }) });
    total ??= page.totalCount;
    ids.push(...page.items.map(({ id }) => id));
    if (page.nextPageToken === null) return { ids, total };
    pageToken = page.nextPageToken;
  }
}

const key = fc.constantFrom('a', 'b', 'c', 'none');
const value = fc.constantFrom('x0', 'x1', 'y0', 'y1', 'y2', '');
const term = fc.oneof(
  key,
  key.map((k) => `!${k}`),
  fc.tuple(key, value).map(([k, v]) => `${k}=${v}`),
  fc.tuple(key, value).map(([k, v]) => `${k}!=${v}`),
  fc.tuple(key, fc.uniqueArray(value, { minLength: 1 })).map(([k, v]) => `${k} in (${v.join(',')})`),
);
const selector = fc.array(term, { minLength: 1, maxLength: 3 }).map((terms) => terms.join(','));
const grant = fc.oneof(
  { weight: 4, arbitrary: selector.map((text): Grant => ({ selector: text })) },
  fc
    .array(fc.nat({ max: 119 }), { minLength: 1, maxLength: 4 })
    .map((indexes): Grant => ({ ids: indexes.map((index) => few[index]?.id ?? newId()) })),
);

test('a list, its pages and its count have what the grants reach, whatever they are', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(grant, { minLength: 1, maxLength: 6 }),
      fc.constantFrom('3', '20', '500'),
      fc.constantFrom(undefined, 'a', 'b!=y1', 'a=x1'),
      async (grants, pageSize, tagSelector) => {
        const caller = granted('few', grants);
        const all = await listed(callerOfAll, { ...(tagSelector && { tagSelector }), pageSize: '500' });
        const ids = expected(caller).flatMap(({ id }) => (all.ids.includes(id) ? [id] : []));
        const query = { pageSize, ...(tagSelector && { tagSelector }) };
        expect(await listed(caller, query)).toEqual({ ids, total: ids.length });
        expect((await listed(caller, { ...query, sort: '-name' })).ids.toSorted()).toEqual(ids.toSorted());
      },
    ),
    { numRuns: 60 },
  );
});

const callerOfAll: Caller = {
  actor: { tenantId: 'few', subject: 'all', roles: ['admin'], scopes: null, via: 'token' },
  requestId: '-',
};

test('jobs and events have what the grants reach, and a job by its id is there or not alike', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(grant, { minLength: 1, maxLength: 6 }), async (grants) => {
      const caller = granted('few', grants);
      const ids = expected(caller).map(({ id }) => id);
      const page = await jobs.list(caller, { pageSize: '500' });
      const ofJobs = page.items.map((job) => (job.resource as { id: string }).id);
      expect(ofJobs.toSorted()).toEqual(ids.toSorted());
      const { events: told } = await events.read(
        'few',
        0,
        { readable: readableEvents(caller.actor, registry.names) },
        500,
      );
      expect([...new Set(told.map(({ resourceId }) => resourceId))].toSorted()).toEqual(ids.toSorted());
      const seen = await jobs.list(callerOfAll, { pageSize: '5' });
      for (const { id, resource } of seen.items) {
        const found = await jobs.get(caller, id).then(
          () => true,
          (error: { code: string }) => error.code,
        );
        expect(found).toBe(ids.includes((resource as { id: string }).id) || 'not_found');
      }
    }),
    { numRuns: 60 },
  );
});

test('alarms are those about what the grants reach, in lists and by their id, and the platform’s are nobody’s', async () => {
  const all = (await alarms.list(callerOfAll, { pageSize: '500', state: 'open' })).items;
  expect(all).toHaveLength(few.length);
  await fc.assert(
    fc.asyncProperty(fc.array(grant, { minLength: 1, maxLength: 6 }), async (grants) => {
      const caller = granted('few', grants);
      const ids = expected(caller).map(({ id }) => id);
      const idOf = (alarm: AlarmView) => (alarm.resource as { id: string }).id;
      const page = await alarms.list(caller, { pageSize: '500' });
      expect(page.items.map(idOf).toSorted()).toEqual(ids.toSorted());
      for (const alarm of all.slice(0, 5)) {
        const found = await alarms.get(caller, alarm.id).then(
          () => true,
          (error: { code: string }) => error.code,
        );
        expect(found).toBe(ids.includes(idOf(alarm)) || 'not_found');
      }
    }),
    { numRuns: 30 },
  );
});

test('the audit trail tells of what the grants reach, of its jobs, and of what is no resource', async () => {
  const ofJob = new Map(
    (await jobs.list(callerOfAll, { pageSize: '500' })).items.map(({ id, resource }) => [id, resource]),
  );
  const told = async ({ actor }: Caller) => {
    const query = sql<{ kind: string | null; resource_id: string | null }>`select r.kind, r.resource_id from audit r
      where r.tenant_id = 'few' and ${readableAudit(actor, registry.names)}`;
    const rows = await spy.tenantRead('few', query.compile(spy.builder));
    return rows
      .map(({ kind, resource_id: id }) => `${kind} ${kind === 'job' ? (ofJob.get(id!) as { id: string }).id : id}`)
      .toSorted();
  };
  await fc.assert(
    fc.asyncProperty(fc.array(grant, { minLength: 1, maxLength: 4 }), async (grants) => {
      const caller = granted('few', grants);
      const ids = expected(caller).map(({ id }) => id);
      const both = ids.flatMap((id) => [`network ${id}`, `job ${id}`]);
      expect(await told(caller)).toEqual([...both, 'null null'].toSorted());
    }),
    { numRuns: 40 },
  );
  expect((await told(callerOfAll)).length).toBe(2 * few.length + 2);
  const scoped: Caller = { ...callerOfAll, actor: { ...callerOfAll.actor, scopes: [{ kind: 'disk', verb: 'read' }] } };
  expect(await told(scoped)).toEqual(['null null']);
});

test('a watcher is told what enters and leaves its reach as made and deleted, and of the end of what is gone', async () => {
  const tenantId = 'watched';
  await sql`insert into tenant (id, display_name) values (${tenantId}, '')`.execute(database.db.operator);
  const id = newId();
  const inTenant = (statement: ReturnType<typeof sql>) =>
    database.db.tenantTransaction(tenantId, (tx) => statement.execute(tx));
  const retag = (tags: Tags) =>
    inTenant(sql`update resource set tags = ${JSON.stringify(tags)}::jsonb where id = ${id}`);
  await inTenant(sql`insert into resource (tenant_id, id, kind, name, tags, state, created_by)
    values (${tenantId}, ${id}, 'network', 'secret', '{"team": "b"}', 'ready', 't')`);
  await retag({ team: 'a' });
  await retag({ team: 'a', note: 'x' });
  await retag({ team: 'b', note: 'hidden' });
  await retag({ team: 'a' });
  await inTenant(sql`insert into job (tenant_id, id, resource_id, kind, resource_name, resource_tags, action, created_by)
    values (${tenantId}, ${newId()}, ${id}, 'network', 'secret', '{"team": "a"}', 'delete', 't')`);
  await inTenant(sql`delete from resource where id = ${id}`);
  await inTenant(sql`update job set state = 'succeeded', finished_at = now() where resource_id = ${id}`);
  await sql`update event e set number = n.number from (select id, row_number() over (order by id) as number from event
    where tenant_id = ${tenantId}) n where e.tenant_id = ${tenantId} and e.id = n.id`.execute(database.db.operator);
  const readable = readableEvents(granted(tenantId, [{ selector: 'team=a' }]).actor, registry.names);
  const { events: told, upTo } = await events.read(tenantId, 0, { readable });
  expect(told.map(({ number, type }) => [number, type])).toEqual([
    [2, 'resource.created'],
    [3, 'resource.updated'],
    [4, 'resource.deleted'],
    [5, 'resource.created'],
    [6, 'job.created'],
    [7, 'resource.deleted'],
    [8, 'job.updated'],
  ]);
  expect(told[2]!.body).toEqual({ id, kind: 'network', name: 'secret' });
  expect(JSON.stringify(told)).not.toContain('hidden');
  expect(upTo).toBe(8);
  const others = readableEvents(granted(tenantId, [{ selector: 'team=c' }]).actor, registry.names);
  expect(await events.read(tenantId, 0, { readable: others })).toMatchObject({ events: [], upTo: 8 });
  const selected = await events.read(tenantId, 0, { readable, selector: parseSelector('note=hidden') });
  expect(selected.events).toEqual([]);
});

describe('in a large tenant', () => {
  const many = (count: number, of: (n: number) => Grant) => Array.from({ length: count }, (_, n) => of(n));
  const cases: [string, Grant[]][] = [
    ['one tag that nearly all have', [{ selector: 'env=prod' }]],
    ['one tag that few have', [{ selector: 'legacy' }]],
    ['a tag that none has', [{ selector: 'nobody=has-it' }]],
    ['ids of what is not there', [{ ids: many(200, () => ({ ids: [] })).map(() => newId()) }]],
    ['200 values of a tag, of which half have one', many(200, (n) => ({ selector: `tier=t${n * 2}` }))],
    ['200 values that none has', many(200, (n) => ({ selector: `tier=u${n}` }))],
    ['200 pairs that go together', many(200, (n) => ({ selector: `env=prod,tier=t${n}` }))],
    ['values of two tags', [{ selector: 'tier=t3' }, { selector: 'env=dev' }, { ids: [newId()] }]],
    ['values of many tags', many(50, (n) => ({ selector: `key${n}=v` }))],
  ];

  test.each(cases)('by %s: one statement, no table scanned, few rows read', async (_what, grants) => {
    const caller = granted('big', grants);
    for (const sort of ['createdAt', '-name']) {
      spy.reads = [];
      await reader.list(caller, network, { pageSize: '10', sort });
      expect(spy.reads.length).toBe(1);
      const { scanned, rowsRead, details } = await costOf(database.db, 'big', spy.reads[0]!);
      expect(scanned).toEqual([]);
      expect(rowsRead, details.join()).toBeLessThan(MAX_ROWS_READ);
    }
    spy.reads = [];
    await reader.list(caller, network, { pageSize: '10', count: 'true' });
    await jobs.list(caller, { pageSize: '10' });
    await events.read('big', 100, { readable: readableEvents(caller.actor, registry.names) });
    for (const read of spy.reads) {
      const cost = await costOf(database.db, 'big', read);
      expect(cost.scanned, read.query.sql).toEqual([]);
    }
  });
});
