/**
 * Plans of the lists that controllers make beside those of kinds (audit, leases, deleted disks), as rhyzome_app under row
 * level security and by the plan that PostgreSQL keeps for all tenants: a page reads what a page needs.
 */
import 'reflect-metadata';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { createPool } from '#libs/db';
import { kinds } from '#libs/kinds';
import { KindRegistry, ResourceReader } from '#libs/resources';
import { callerIn, costOf, SpyingDatabase, type TestDatabase, testDatabase } from '#libs/testing';
import { AuditController } from './controllers/audit.controller.js';

const ROWS = 20_000;
const MAX_ROWS_READ = 2_000;
/** Where the load has rows: one a second back from now. */
const hoursAgo = (hours: number) => new Date(Date.now() - hours * 3_600_000).toISOString();
const network = newId();
const node = newId();
const big = callerIn('big');

let database: TestDatabase;
let spy: SpyingDatabase;

/** Half of the rows are one tenant's. */
const load = `
set session_replication_role = replica;
insert into tenant (id, display_name) values ('big', 'b'), ('other', 'o');
create temp table seed as select n, case when n % 2 = 0 then 'big' else 'other' end as tenant_id,
  now() - n * interval '1 second' as at from generate_series(0, ${2 * ROWS - 1}) n;
insert into audit (tenant_id, id, at, actor, action, kind, resource_id, result, request_id)
  select tenant_id, uuidv7(-n * interval '1 second'), at, 'user' || n % 10, (array['network.create', 'disk.attach'])[1 + n % 2],
    (array['network', 'disk'])[1 + n % 2], gen_random_uuid(), (array['done', 'refused'])[1 + (n % 50 = 0)::int], 'request-' || n from seed;
insert into resource (tenant_id, id, kind, name, state, created_by) values ('big', '${network}', 'network', 'lan', 'ready', 't');
insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
  values ('big', '${network}', '10.0.0.0/8', '10.0.0.1', 1450, 16777213, '10.0.0.2');
insert into lease (tenant_id, id, network_id, ip, mac, automatic, created_at)
  select tenant_id, gen_random_uuid(), case tenant_id when 'big' then '${network}'::uuid else gen_random_uuid() end,
    '10.0.0.2'::inet + n::bigint,
    ('52:54:00:' || lpad(to_hex(n / 65536), 2, '0') || ':' || lpad(to_hex(n / 256 % 256), 2, '0') || ':' || lpad(to_hex(n % 256), 2, '0'))::macaddr,
    false, at from seed;
insert into deleted_disk (tenant_id, id, name, tags, created_by, created_at, size_gib, node_id, deleted_at, expires_at)
  select tenant_id, gen_random_uuid(), 'disk-' || n, '{}', 't', at, 1, '${node}', at, at + interval '1 day' from seed;
analyze`;

beforeAll(async () => {
  database = await testDatabase();
  const pool = createPool(database.connection, null, { max: 1 });
  await pool.query(load);
  await pool.end();
  spy = new SpyingDatabase({ app: database.connection, maxConnections: 1 });
});
afterAll(async () => {
  await spy?.close();
  await database?.close();
});

type Listing = { list(request: unknown, reply: unknown, ...path: string[]): Promise<void> };

function listing(name: 'audit' | 'leases' | 'deleted-disks'): Listing {
  const registry = new KindRegistry(kinds);
  const reader = new ResourceReader(spy, Buffer.alloc(32, 7));
  if (name === 'audit') return new AuditController(reader, spy, registry) as unknown as Listing;
  const [controller] = registry.get(name === 'leases' ? 'network' : 'disk').controllers ?? [];
  return new controller!(spy, registry, reader) as Listing;
}

test.each([
  ['audit', {}],
  ['audit', { sort: '-at' }],
  ['audit', { actor: 'user3' }],
  ['audit', { action: 'network.create', sort: '-at' }],
  ['audit', { kind: 'network' }],
  ['audit', { result: 'refused' }],
  ['audit', { requestId: 'request-44' }],
  ['audit', { resource: newId() }],
  ['audit', { from: '2020-01-01T00:00:00Z', sort: '-at' }],
  ['audit', { from: hoursAgo(2), to: hoursAgo(1), result: 'refused' }],
  ['audit', { to: hoursAgo(1), sort: '-at' }],
  ['leases', {}],
  ['leases', { sort: '-ip' }],
  ['leases', { sort: 'createdAt' }],
  ['leases', { instance: newId() }],
  ['deleted-disks', {}],
  ['deleted-disks', { sort: '-deletedAt' }],
] as const)('%s by %o', async (name, query) => {
  let next = '';
  const send = (page: { nextPageToken: string | null }) => {
    next = page.nextPageToken ?? '';
  };
  const ask = (more: object) => {
    const all = { pageSize: '20', ...query, ...more };
    const request = { caller: big, query: all, url: `/v1/${name}?${new URLSearchParams(all)}` };
    return listing(name).list(request, { header: () => undefined, send }, network);
  };
  spy.reads = [];
  await ask({});
  if (next) await ask({ pageToken: next });
  expect(spy.reads.length).toBeGreaterThan(0);
  for (const read of spy.reads) {
    const { scanned, rowsRead, details } = await costOf(database.db, 'big', read);
    // Of networks there is one here.
    const large = scanned.filter((table) => !['resource', 'network'].includes(table));
    expect(large, read.query.sql).toEqual([]);
    expect(rowsRead, `${details}`).toBeLessThan(MAX_ROWS_READ);
  }
});
