/** The walls in the database between tenants, table by table from the catalogue, with the application's filters left out. */
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import type { Tx } from '#libs/db';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { filledByTriggers, NODE, OTHER_NODE, order, rowOf } from './test-rows.js';

let database: TestDatabase;
let tables: string[];

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
      values (${NODE}, 'n1', 'sim', '0', '{}', 1, 1, 1), (${OTHER_NODE}, 'n2', 'sim', '0', '{}', 1, 1, 1)`.execute(tx);
    await sql`insert into audit_seal (batch, era, upto_xid, upto_id, upto_tenant, row_count, previous, hash, sealed_at)
      values (1, 1, '0', ${NODE}, 'a', 0, '', '', now())`.execute(tx);
    await sql`insert into public_pool (name) values ('public')`.execute(tx);
  });
  for (const tenant of ['a', 'b']) {
    const id = newId();
    for (const table of tables) {
      if (filledByTriggers.includes(table)) continue;
      const row = await rowOf(database.db, table, tenant, id);
      if (table === 'audit') await db.tenantTransaction(tenant, (tx) => insert(tx, table, row));
      else await db.operatorTransaction((tx) => insert(tx, table, row));
    }
  }
});
afterAll(() => database?.close());

/** As the application's role with what it may do at all: what is refused for want of a grant is refused, too. */
async function attempt(tenant: string, statement: (tx: Tx) => Promise<number>): Promise<number | 'refused'> {
  try {
    return await database.db.tenantTransaction(tenant, statement);
  } catch (error) {
    // Or what take_order says, which runs before and finds no such resource in the tenant.
    expect(['42501', '23503'], String(error)).toContain((error as { code: string }).code);
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
      const foreign = await rowOf(database.db, table, 'b', newId());
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
      'access_epochs',
      'api_tokens',
      'begin_node_load',
      'claim_public_address',
      'claim_vni',
      'claim_wireguard_port',
      'count_reservation',
      'domain_directory',
      'free_held_address',
      'free_room',
      'give_back_public_address',
      'hold_access',
      'issuer_directory',
      'keep_realm_issuer',
      'move_disk_reservation',
      'move_reservations',
      'node_headroom',
      'note_api_tokens_used',
      'open_audit_era',
      'public_pool_use',
      'raise_access',
      'raise_access_of_tenant',
      'remember_issuer_keys',
      'remembered_issuer_keys',
      'reserve_node',
      'reserve_room',
      'revoked_servers',
      'shrink_reservation',
      'split_reservation',
      'tell_unauthenticated',
    ]);
  });

  test('shows global images to every tenant, and lets none change them', async () => {
    const id = newId();
    await database.db.operatorTransaction(async (tx) => {
      await insert(tx, 'resource', {
        ...(await rowOf(database.db, 'resource', 'system', id)),
        kind: 'image',
        tags: '{"os":"x"}',
      });
      await insert(tx, 'image', { ...(await rowOf(database.db, 'image', 'system', id)), visibility: 'global' });
      // Whatever else is the system tenant's is nobody's to see.
      await insert(tx, 'resource', { ...(await rowOf(database.db, 'resource', 'system', newId())), name: 'hidden' });
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
