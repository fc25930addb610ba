/** The walls in the database between tenants, table by table from the catalogue, with the application's filters left out. */
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import type { Tx } from '#libs/db';
import { type TestDatabase, testDatabase } from '#libs/testing';

let database: TestDatabase;
let tables: string[];

const NODE = newId();

/** One row of every table with tenant data, for a tenant; the spec fails when a table is missing here. */
const rows: Record<string, (tenant: string, id: string) => Record<string, unknown>> = {
  resource: (tenant_id, id) => ({
    tenant_id,
    id,
    kind: 'network',
    name: `n-${tenant_id}`,
    state: 'ready',
    created_by: 'x',
  }),
  resource_tag: (tenant_id, resource_id) => ({
    tenant_id,
    kind: 'network',
    key: 'k',
    value: 'v',
    resource_id,
    created_at: new Date(),
    name: 'n',
  }),
  dependency: (tenant_id, id) => ({
    tenant_id,
    resource_id: id,
    target_tenant_id: tenant_id,
    target_id: id,
    relation: 'test',
  }),
  job: (tenant_id, id) => ({
    tenant_id,
    id,
    resource_id: id,
    kind: 'network',
    resource_name: 'n',
    action: 'create',
    created_by: 'x',
  }),
  job_step: (tenant_id, job_id) => ({ tenant_id, job_id, ordinal: 1, name: 's', state: 'running' }),
  event: (tenant_id, resource_id) => ({ tenant_id, type: 't', kind: 'network', resource_id, body: '{}' }),
  event_counter: (tenant_id) => ({ tenant_id, last: 1 }),
  audit: (tenant_id, id) => ({ tenant_id, id, actor: 'a', action: 'network.create', result: 'done' }),
  idempotency: (tenant_id, id) => ({
    tenant_id,
    subject: 's',
    key: id,
    request_hash: Buffer.from('h'),
    status: 202,
    headers: '{}',
    body: '{}',
  }),
  quota: (tenant_id) => ({ tenant_id, name: 'instances', max: 10, used: 0 }),
  tenant_issuer: (tenant_id) => ({ tenant_id, issuer: `https://issuer.example/${tenant_id}` }),
  placement: (tenant_id, resource_id) => ({
    tenant_id,
    resource_id,
    node_id: NODE,
    kind: 'network',
    generation: 1,
    present: true,
  }),
  deed: (tenant_id, id) => ({ tenant_id, id, node_id: NODE, kind: 'k', resource_id: id, verb: 'v', repeatable: true }),
  reservation: (tenant_id, resource_id) => ({
    tenant_id,
    resource_id,
    node_id: NODE,
    vcpus: 1,
    memory_mib: 1,
    disk_gib: 1,
  }),
  network: (tenant_id, id) => ({
    tenant_id,
    id,
    subnet: '10.0.0.0/24',
    gateway: '10.0.0.1',
    mtu: 1450,
    address_total: 253,
    address_hint: '10.0.0.2',
  }),
  lease: (tenant_id, id) => ({
    tenant_id,
    id,
    network_id: id,
    ip: '10.0.0.9',
    mac: '52:54:00:00:00:01',
    automatic: false,
  }),
  image: (tenant_id, id) => ({
    tenant_id,
    id,
    visibility: 'private',
    format: 'raw',
    size_bytes: 1,
    virtual_size_bytes: 1,
    sha256: 'a'.repeat(64),
  }),
  image_upload: (tenant_id, image_id) => ({ tenant_id, image_id, operation_id: image_id }),
  metric_sample: (tenant_id, resource_id) => ({ tenant_id, resource_id, source: 's', at: new Date(), metrics: '[]' }),
  disk: (tenant_id, id) => ({ tenant_id, id, size_gib: 1 }),
  snapshot: (tenant_id, id) => ({ tenant_id, id, disk_id: id }),
  deleted_disk: (tenant_id, id) => ({
    tenant_id,
    id,
    name: 'd',
    tags: '{}',
    created_by: 'x',
    created_at: new Date(),
    size_gib: 1,
    node_id: NODE,
    expires_at: new Date(),
  }),
  instance_user_data: (tenant_id, id) => ({ tenant_id, id, user_data: '#cloud-config' }),
  network_part: (tenant_id, id) => ({ tenant_id, resource_id: id, network_id: id, kind: 'forward', spec: '{}' }),
  wireguard_door: (tenant_id, network_id) => ({
    tenant_id,
    network_id,
    port: tenant_id === 'a' ? 16_384 : 16_385,
    private_key: 'p',
    public_key: 'q',
  }),
  wireguardpeer: (tenant_id, id) => ({ tenant_id, id, network_id: id, public_key: 'k', address: '198.18.0.2' }),
  publicaddress: (tenant_id, id) => ({
    tenant_id,
    id,
    pool: 'public',
    ip: tenant_id === 'a' ? '203.0.113.1' : '203.0.113.2',
  }),
  portforward: (tenant_id, id) => ({
    tenant_id,
    id,
    public_address_id: id,
    protocol: 'tcp',
    port: 80,
    instance_id: id,
    network_id: id,
    network_asked: false,
  }),
  public_port: (tenant_id, id) => ({ tenant_id, public_address_id: id, protocol: 'tcp', port: 80, resource_id: id }),
  firewallrule: (tenant_id, id) => ({
    tenant_id,
    id,
    network_id: id,
    priority: 1,
    direction: 'in',
    action: 'allow',
    protocol: 'any',
  }),
  instance: (tenant_id, id) => ({
    tenant_id,
    id,
    image_id: id,
    vcpus: 1,
    memory_mib: 64,
    desired_power_state: 'running',
    restart_policy: 'stay',
  }),
};

/** In an order in which what is referred to comes first. */
const order = ['resource', 'job', 'network', 'image', 'instance', 'disk', 'wireguard_door'];

function insert(tx: Tx, table: string, row: Record<string, unknown>): Promise<unknown> {
  const columns = sql.join(Object.keys(row).map((name) => sql.ref(name)));
  return sql`insert into ${sql.table(table)} (${columns}) values (${sql.join(Object.values(row))}) returning 1`.execute(
    tx,
  );
}

beforeAll(async () => {
  database = await testDatabase();
  const { db } = database;
  const found = await sql<{ name: string }>`
    select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
    where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace and not a.attisdropped order by 1`.execute(
    db.operator,
  );
  tables = found.rows.map(({ name }) => name);
  tables.sort((a, b) => (order.indexOf(a) + 1 || 99) - (order.indexOf(b) + 1 || 99));
  await db.operatorTransaction(async (tx) => {
    await sql`insert into tenant (id, display_name) values ('a', 'A'), ('b', 'B')`.execute(tx);
    await sql`insert into node (id, name, driver, agent_version, kinds, vcpus, memory_mib, disk_gib)
      values (${NODE}, 'n1', 'sim', '0', '{}', 1, 1, 1)`.execute(tx);
    await sql`insert into public_pool (name) values ('public')`.execute(tx);
  });
  for (const tenant of ['a', 'b']) {
    const id = newId();
    for (const table of tables) {
      if (table === 'audit') await db.tenantTransaction(tenant, (tx) => insert(tx, table, rows[table]!(tenant, id)));
      else await db.operatorTransaction((tx) => insert(tx, table, rowOf(table, tenant, id)));
    }
  }
});
afterAll(() => database?.close());

function rowOf(table: string, tenant: string, id: string) {
  const make = rows[table];
  if (!make) throw new Error(`A new table with tenant data: give libs/db/walls.spec.ts a row of ${table}.`);
  return make(tenant, id);
}

/** As the application's role with what it may do at all: what is refused for want of a grant is refused, too. */
async function attempt(tenant: string, statement: (tx: Tx) => Promise<number>): Promise<number | 'refused'> {
  try {
    return await database.db.tenantTransaction(tenant, statement);
  } catch (error) {
    expect((error as { code: string }).code, String(error)).toBe('42501');
    return 'refused';
  }
}

describe('row level security', () => {
  test('is on, and forced on the owner, for every table with tenant data', async () => {
    const found = await sql<{ name: string; on: boolean; forced: boolean; owner: string }>`
      select relname as name, relrowsecurity as on, relforcerowsecurity as forced, pg_get_userbyid(relowner) as owner
      from pg_class where relnamespace = 'public'::regnamespace and relname = any(${[...tables, 'tenant']})`.execute(
      database.db.operator,
    );
    expect(found.rows).toHaveLength(tables.length + 1);
    for (const row of found.rows) expect(row).toMatchObject({ on: true, forced: true, owner: 'rhyzome_owner' });
  });

  test('holds for roles that can neither bypass it nor own anything', async () => {
    const roles = await sql`select rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb from pg_roles
      where rolname in ('rhyzome_app', 'rhyzome_operator', 'rhyzome_owner')`.execute(database.db.operator);
    expect(roles.rows).toHaveLength(3);
    for (const role of roles.rows) {
      expect(role).toMatchObject({ rolsuper: false, rolbypassrls: false, rolcreaterole: false, rolcreatedb: false });
    }
    const owned = await sql`select relname from pg_class
      where pg_get_userbyid(relowner) in ('rhyzome_app', 'rhyzome_operator')`.execute(database.db.operator);
    expect(owned.rows).toEqual([]);
    const member = await sql<{ ok: boolean }>`select pg_has_role('rhyzome_app', 'rhyzome_operator', 'member')
      or pg_has_role('rhyzome_app', 'rhyzome_owner', 'member') or pg_has_role('rhyzome_operator', 'rhyzome_owner', 'member')
      as ok`.execute(database.db.operator);
    expect(member.rows).toEqual([{ ok: false }]);
    const [whoami] = await database.db.unscopedRead(
      sql<{ role: string }>`select current_user as role`.compile(database.db.builder),
    );
    expect(whoami).toEqual({ role: 'rhyzome_app' });
  });

  test('shows the application no row of any table while no tenant is set', async () => {
    for (const table of [...tables, 'tenant']) {
      const count = sql<{ n: number }>`select count(*)::int as n from ${sql.table(table)}
        where ${sql.ref(table === 'tenant' ? 'id' : 'tenant_id')} <> 'system'`;
      const seen = await database.db
        .unscopedRead(count.compile(database.db.builder))
        .catch((error: { code: string }) => error.code);
      expect(seen === '42501' || seen, table).toEqual(seen === '42501' ? true : [{ n: 0 }]);
    }
  });

  test('in tenant a, nothing of b is seen, made, changed or taken away, whatever the statement says', async () => {
    for (const table of tables) {
      const name = sql.table(table);
      const foreign = rowOf(table, 'b', newId());
      const seen = await attempt('a', async (tx) => {
        const found = await sql<{ tenant_id: string }>`select tenant_id from ${name}`.execute(tx);
        return found.rows.filter(({ tenant_id }) => tenant_id !== 'a').length;
      });
      expect([0, 'refused'], `${table} seen`).toContain(seen);
      expect(await attempt('a', async (tx) => insert(tx, table, foreign).then(() => 1)), `${table} made`).toBe(
        'refused',
      );
      const changed = await attempt('a', async (tx) => {
        const result = await sql`update ${name} set tenant_id = tenant_id where tenant_id <> 'a'`.execute(tx);
        return Number(result.numAffectedRows ?? 0n);
      });
      expect([0, 'refused'], `${table} changed`).toContain(changed);
      const moved = await attempt('a', async (tx) => {
        await sql`update ${name} set tenant_id = 'b' where tenant_id = 'a'`.execute(tx);
        return 1;
      });
      expect(moved, `${table} given away`).toBe('refused');
      const removed = await attempt('a', async (tx) => {
        const result = await sql`delete from ${name} where tenant_id <> 'a'`.execute(tx);
        return Number(result.numAffectedRows ?? 0n);
      });
      expect([0, 'refused'], `${table} removed`).toContain(removed);
    }
    const left = await sql<{ n: number }>`select count(*)::int as n from resource where tenant_id = 'b'`.execute(
      database.db.operator,
    );
    expect(left.rows).toEqual([{ n: 1 }]);
  });

  test('knows these policies and no others', async () => {
    const found = await sql<{ policy: string; name: string; cmd: string }>`
      select policyname as policy, tablename as name, cmd from pg_policies
      where 'rhyzome_app' = any(roles) or 'public' = any(roles) order by 1, 2`.execute(database.db.operator);
    const expected = [
      ...['global_images', 'published'].flatMap((policy) =>
        ['image', 'resource', 'resource_tag'].map((name) => ({ policy, name, cmd: 'SELECT' })),
      ),
      ...tables.map((name) => ({ policy: 'own_tenant', name, cmd: 'ALL' })),
      { policy: 'own_tenant', name: 'tenant', cmd: 'SELECT' },
    ];
    const sorted = (rows: typeof expected) => rows.map((row) => Object.values(row).sort().join(' ')).sort();
    expect(sorted(found.rows)).toEqual(sorted(expected));
  });

  test('lets these functions of the owner past it and no others', async () => {
    const found = await sql<{ name: string }>`select proname as name from pg_proc
      where prosecdef and pronamespace = 'public'::regnamespace order by 1`.execute(database.db.operator);
    expect(found.rows.map(({ name }) => name)).toEqual([
      'claim_public_address',
      'claim_wireguard_port',
      'give_back_public_address',
      'issuer_directory',
      'node_headroom',
      'public_pool_use',
      'reserve_node',
      'shrink_reservation',
      'split_reservation',
    ]);
  });

  test('shows global images to every tenant, and lets none change them', async () => {
    const id = newId();
    await database.db.operatorTransaction(async (tx) => {
      await insert(tx, 'resource', { ...rowOf('resource', 'system', id), kind: 'image', tags: '{"os":"x"}' });
      await insert(tx, 'image', { ...rowOf('image', 'system', id), visibility: 'global' });
      // Whatever else is the system tenant's is nobody's to see.
      await insert(tx, 'resource', { ...rowOf('resource', 'system', newId()), name: 'hidden' });
    });
    await database.db.tenantTransaction('a', async (tx) => {
      for (const table of ['resource', 'image', 'resource_tag']) {
        const found = await sql`select 1 from ${sql.table(table)} where tenant_id = 'system'`.execute(tx);
        expect(found.rows, table).toHaveLength(1);
        const changed =
          await sql`update ${sql.table(table)} set tenant_id = tenant_id where tenant_id = 'system'`.execute(tx);
        expect(changed.numAffectedRows, table).toBe(0n);
        const removed = await sql`delete from ${sql.table(table)} where tenant_id = 'system'`.execute(tx);
        expect(removed.numAffectedRows, table).toBe(0n);
      }
    });
  });

  test('audit is only ever added to, also by the operator', async () => {
    for (const statement of ['delete from audit', "update audit set actor = 'z'"]) {
      const query = sql.raw(statement);
      await expect(database.db.operatorTransaction((tx) => query.execute(tx))).rejects.toMatchObject({ code: '42501' });
      expect(await attempt('a', (tx) => query.execute(tx).then(() => 1))).toBe('refused');
    }
  });
});
