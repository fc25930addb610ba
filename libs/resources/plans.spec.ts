/**
 * Plans of what users ask for, as the application's role under row level security, with 20 000 rows in one tenant and as
 * many in others: indexes all the way, whether the plan knows the parameters or not.
 */
import 'reflect-metadata';
import { type CompiledQuery, sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createPool, Database } from '#libs/db';
import { EventReader } from '#libs/events';
import { kinds } from '#libs/kinds';
import { type Caller, JobService, KindRegistry, Pipeline, ResourceReader } from '#libs/resources';
import { callerIn, type TestDatabase, testDatabase } from '#libs/testing';

const ROWS = 20_000;
const INSTANCES = 2_000;
const KEY = Buffer.alloc(32, 5);
/** A kind's own table is joined, and read as a whole where that is cheaper for a page of 500. */
const large = ['resource', 'resource_tag', 'lease', 'job', 'event', 'dependency'];
const registry = new KindRegistry(kinds);
const network = registry.get('network');
const instance = registry.get('instance');
const big = callerIn('big');

let database: TestDatabase;
let spy: Spying;
let reader: ResourceReader;
let jobs: JobService;

/** Keeps the reading statements that went through it. */
class Spying extends Database {
  readonly queries: CompiledQuery[] = [];
  override tenantRead<Row>(tenantId: string, query: CompiledQuery<Row>): Promise<Row[]> {
    this.queries.push(query);
    return super.tenantRead(tenantId, query);
  }
}

/** Rows that no trigger saw: n-th of `big` for the first half, then of twenty other tenants. */
const load = `
set session_replication_role = replica;
insert into tenant (id, display_name) select 'big', 'b' union all select 'other' || n, 'o' from generate_series(0, 19) n;
create temp table seed as
  select n, case when n < ${ROWS} then 'big' else 'other' || n % 20 end as tenant_id,
    gen_random_uuid() as network, gen_random_uuid() as instance, now() - n * interval '1 second' as at
  from generate_series(0, ${2 * ROWS - 1}) n;
insert into resource (tenant_id, id, kind, name, tags, state, created_by, created_at, updated_at)
  select tenant_id, network, 'network', 'net-' || n, jsonb_build_object('tier', 't' || n % 100, 'env', 'e' || n % 3),
    case when n % 50 = 0 then 'failed' else 'ready' end, 't', at, at from seed
  union all select tenant_id, instance, 'instance', 'vm-' || n, '{}', 'ready', 't', at, at from seed where n % ${ROWS} < ${INSTANCES};
insert into resource_tag (tenant_id, kind, key, value, resource_id, created_at, name)
  select r.tenant_id, r.kind, t.key, t.value, r.id, r.created_at, r.name from resource r, jsonb_each_text(r.tags) t;
insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
  select tenant_id, network, '10.0.0.0/8', '10.0.0.1', 1450, 16777213, '10.0.0.2' from seed;
insert into instance (tenant_id, id, vcpus, memory_mib, desired_power_state, power_state, restart_policy)
  select tenant_id, instance, 1, 64, 'running', 'running', 'stay' from seed where n % ${ROWS} < ${INSTANCES};
insert into lease (tenant_id, id, network_id, ip, mac, automatic, instance_id, ordinal)
  select s.tenant_id, gen_random_uuid(), f.network, '10.0.0.2'::inet + s.n::bigint,
    ('52:54:00:' || lpad(to_hex(s.n / 65536), 2, '0') || ':' || lpad(to_hex(s.n / 256 % 256), 2, '0') || ':' || lpad(to_hex(s.n % 256), 2, '0'))::macaddr,
    true, s.instance, 0
  from seed s join (select distinct on (tenant_id) tenant_id, network from seed order by tenant_id, n) f using (tenant_id);
insert into dependency (tenant_id, resource_id, target_tenant_id, target_id, relation)
  select tenant_id, instance, tenant_id, network, 'is attached to' from seed where n % ${ROWS} < ${INSTANCES};
insert into job (tenant_id, id, resource_id, kind, resource_name, action, state, created_by, created_at, finished_at)
  select tenant_id, gen_random_uuid(), network, 'network', 'net-' || n, 'create', 'succeeded', 't', at, at from seed;
insert into event (tenant_id, number, type, kind, resource_id, body, at)
  select tenant_id, row_number() over (partition by tenant_id order by n), 'resource.created', 'network', network, '{}', at from seed;
analyze`;

beforeAll(async () => {
  database = await testDatabase();
  const pool = createPool(database.connection, null, { max: 1 });
  await pool.query(load);
  await pool.end();
  spy = new Spying({ app: database.connection, maxConnections: 1 });
  reader = new ResourceReader(spy, KEY);
  jobs = new JobService(spy, registry, KEY, database.listener);
});
afterAll(async () => {
  await spy?.close();
  await database?.close();
});

interface Plan {
  'Node Type': string;
  'Relation Name'?: string;
  Plans?: Plan[];
}

const nodesOf = (plan: Plan): Plan[] => [plan, ...(plan.Plans ?? []).flatMap(nodesOf)];

async function seqScans(query: CompiledQuery, isGeneric: boolean): Promise<string[]> {
  return database.db.tenantTransaction('big', async (tx) => {
    await sql`set local plan_cache_mode = ${sql.raw(isGeneric ? 'force_generic_plan' : 'force_custom_plan')}`.execute(
      tx,
    );
    // What EXPLAIN is given with parameters is planned as such; a prepared statement's plan may know none.
    const explain: CompiledQuery = { ...query, sql: `explain (format json) ${query.sql}` };
    const result = isGeneric
      ? await genericPlan(tx, query)
      : await tx.executeQuery<{ 'QUERY PLAN': [{ Plan: Plan }] }>(explain);
    return nodesOf(result.rows[0]!['QUERY PLAN'][0].Plan)
      .filter((node) => node['Node Type'] === 'Seq Scan' && large.includes(node['Relation Name'] ?? ''))
      .map((node) => node['Relation Name']!);
  });
}

function genericPlan(tx: Parameters<Parameters<Database['tenantTransaction']>[1]>[0], query: CompiledQuery) {
  return sql<{
    'QUERY PLAN': [{ Plan: Plan }];
  }>`${sql.raw(`explain (format json, generic_plan) ${query.sql}`)}`.execute(tx);
}

async function expectIndexes(work: () => Promise<unknown>, what: string, generic = true): Promise<void> {
  spy.queries.length = 0;
  await work();
  expect(spy.queries.length, what).toBeGreaterThan(0);
  for (const query of [...spy.queries]) {
    expect(await seqScans(query, false), `${what}: ${query.sql}`).toEqual([]);
    if (generic) expect(await seqScans(query, true), `${what}, generic: ${query.sql}`).toEqual([]);
  }
}

describe('with 40 000 rows, indexes answer', () => {
  const lists: Record<string, string>[] = [
    {},
    { sort: 'name' },
    { sort: '-createdAt' },
    { sort: 'updatedAt' },
    { state: 'failed' },
    { name: 'net-77' },
    { tagSelector: 'tier=t7' },
    { tagSelector: 'tier in (t1,t2),env!=e0' },
    { tagSelector: 'env' },
    { tagSelector: '!owner' },
  ];
  test.each(lists.map((query) => [JSON.stringify(query), query] as const))(
    'a list by %s, its next page too',
    async (what, query) => {
      let next: string | null = null;
      await expectIndexes(async () => {
        next = (await reader.list(big, network, query)).nextPageToken;
        if (next) await reader.list(big, network, { ...query, pageToken: next });
      }, what);
    },
  );

  test('a list of instances, with their interfaces', async () => {
    await expectIndexes(() => reader.list(big, instance, {}), 'instances');
    await expectIndexes(() => reader.list(big, instance, { pageSize: '500', sort: 'name' }), '500 instances');
  });

  test('one resource by id and by name, also for who has none', async () => {
    for (const caller of [big, callerIn('other3'), callerIn('nobody')] as Caller[]) {
      await expectIndexes(() => reader.get(caller, network, 'net-5').catch(() => undefined), 'by name');
      const id = '01890000-0000-7000-8000-000000000000';
      await expectIndexes(() => reader.get(caller, instance, id).catch(() => undefined), 'by id');
    }
  });

  test('jobs, by resource and state, and one', async () => {
    const { items } = await jobs.list(big, {});
    await expectIndexes(() => jobs.list(big, {}), 'jobs');
    await expectIndexes(() => jobs.list(big, { state: 'succeeded', sort: '-createdAt' }), 'jobs by state');
    const { id: resource } = items[0]!.resource as { id: string };
    await expectIndexes(() => jobs.list(big, { resource }), 'jobs of a resource');
    await expectIndexes(() => jobs.get(big, items[0]!.id), 'one job');
  });

  test('events after a number, and where a reader may resume', async () => {
    const events = new EventReader(spy);
    await expectIndexes(() => events.read('big', 19_000, {}), 'events');
    await expectIndexes(() => events.read('big', 0, { kind: 'network' }), 'events from the start');
  });

  test('what a change looks up and checks, triggers and foreign keys too', async () => {
    const pipeline = new Pipeline(spy, new KindRegistry(kinds));
    const { items } = await reader.list(big, network, { sort: 'name', pageSize: '3' });
    const before = await scanned();
    const created = await pipeline.create(big, network, { name: 'fresh', subnet: '10.1.0.0/16', tags: { tier: 't1' } });
    await pipeline.update(big, network, items[1]!.id, { tags: { tier: 't2' } });
    await pipeline.remove(big, network, created.body.id, { dryRun: true });
    await pipeline
      .remove(big, network, items[2]!.id)
      .catch((error: { code: string }) => expect(error.code).toBe('in_use'));
    expect(await scanned()).toEqual(before);
  });
});

/** Sequential scans of the large tables so far, as the server counted them. */
async function scanned(): Promise<Record<string, number>> {
  await spy.unscopedRead(sql`select pg_stat_force_next_flush()`.compile(spy.builder));
  await spy.ping();
  const result = await sql<{ relname: string; seq_scan: number }>`
    select relname, seq_scan from pg_stat_user_tables where relname = any(${large})`.execute(database.db.operator);
  return Object.fromEntries(result.rows.map(({ relname, seq_scan }) => [relname, seq_scan]));
}
