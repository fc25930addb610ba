/** `rhyzome backup` and `restore` on a real database: what was there is there again, under numbers that nobody has seen. */
import { chmodSync, cpSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectionOf } from '#libs/config';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { AuditSealer, EventReader } from '#libs/events';
import { desire, openSession, recordInventory } from '#libs/nodes';
import { Observed, Phase } from '#libs/rpc';
import { type Part, readBackup, writeBackup } from '../backup/backup-file.js';
import { restoreDatabase } from '../backup/restore-database.js';
import { migrationsFolder } from '../installed.js';
import { TestInstallation } from '../test-harness.js';

// A restore makes the whole schema anew, and the machine may be busy.
const patience = { timeout: 180_000 };
const tools = { testCluster, createDatabase, ensureLogin };
let rhyzome: TestInstallation;
let file: string;
const network = newId();
const disk = newId();
const job = newId();
let nodeId: string;
let before: Record<string, string[]>;

/** Every row of every table, as text. */
async function everything(): Promise<Record<string, string[]>> {
  const { operator } = rhyzome.db;
  const tables = await sql<{ name: string }>`
    select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'
      and has_table_privilege(oid, 'select') order by 1`.execute(operator);
  const found: Record<string, string[]> = {};
  for (const { name } of tables.rows) {
    const rows = await sql<{ row: string }>`select t::text as row from ${sql.table(name)} t order by 1`.execute(
      operator,
    );
    found[name] = rows.rows.map(({ row }) => row);
  }
  return found;
}

/** What guards the tables: walls, triggers, policies. */
async function guards() {
  const found = await sql`
    select (select count(*)::int from pg_class where relforcerowsecurity) as walls,
      (select count(*)::int from pg_trigger where tgenabled = 'O' and not tgisinternal) as triggers,
      (select count(*)::int from pg_trigger where tgenabled <> 'O') as disabled,
      (select count(*)::int from pg_policies) as policies`.execute(rhyzome.db.operator);
  return found.rows[0];
}

beforeAll(async () => {
  rhyzome = await TestInstallation.make(tools);
  file = join(rhyzome.dir, 'one.backup');
  await rhyzome.ok('tenant', 'create', 'acme', '--display-name', 'Tab\\, "quote" and ü');
  await rhyzome.ok('quota', 'set', 'acme', 'networks=5');
  const { db } = rhyzome;
  const hello = {
    name: 'n1',
    driver: 't',
    agentVersion: '0',
    kinds: [],
    labels: {},
    vcpus: 1,
    memoryMiB: 1,
    diskGiB: 1,
  };
  nodeId = (await openSession(db, hello, 'r:1')).nodeId;
  const wide = { text: 'a\\.\nb\tc', list: Array.from({ length: 20_000 }, (_, n) => n) };
  await db.tenantTransaction('acme', async (tx) => {
    for (const [id, kind] of [
      [network, 'network'],
      [disk, 'disk'],
    ] as const)
      await sql`insert into resource (tenant_id, id, kind, name, tags, state, created_by)
        values ('acme', ${id}, ${kind}, ${kind}, '{"tier":"web"}', 'ready', 'x')`.execute(tx);
    await sql`insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
      values ('acme', ${network}, '10.0.0.0/24', '10.0.0.1', 1450, 253, '10.0.0.2')`.execute(tx);
    await sql`insert into disk (tenant_id, id, size_gib, made, node_id) values ('acme', ${disk}, 1, true, ${nodeId})`.execute(
      tx,
    );
    await desire(tx, { tenantId: 'acme', id: network, kind: 'network' }, nodeId, { generation: 1, spec: wide });
    await desire(tx, { tenantId: 'acme', id: disk, kind: 'disk' }, nodeId, { generation: 1, spec: { sizeBytes: 1 } });
    await sql`insert into job (tenant_id, id, resource_id, kind, resource_name, action, created_by, state, lease_owner,
      lease_until, fence) values ('acme', ${job}, ${network}, 'network', 'network', 'update', 'x', 'running', 'w1',
      now() + interval '1 hour', 3)`.execute(tx);
  });
  await sql`update placement set phase = 'ready', observed_revision = revision, observed_at = now()`.execute(
    db.operator,
  );
});
afterAll(() => rhyzome?.remove());

describe('rhyzome backup', patience, () => {
  it('writes one file for its owner only, and says what is in it', async () => {
    before = await everything();
    const told = await rhyzome.json('backup', file);
    expect(told).toMatchObject({ file, rows: expect.any(Number) });
    expect(statSync(file).mode & 0o777).toBe(0o600);
    const whole = await rhyzome.json('backup', 'verify', file);
    expect(whole.tables.placement.rows).toBe(2);
    expect(whole.tables).not.toHaveProperty('event');
    expect(whole.migrations.length).toBe(before.migration!.length);
    expect(await rhyzome.ok('backup', 'verify', file)).toMatch(/^Whole: \d+ rows of \d+ tables of installation /);
    expect(await rhyzome.run('backup', file)).toMatchObject({ status: 1, err: expect.stringContaining('--force') });
    expect((await rhyzome.audit('system')).at(-1)).toMatchObject({ action: 'db.backup' });
  });

  it('leaves what was there when it cannot be written', async () => {
    const folder = join(rhyzome.dir, 'absent', 'x.backup');
    expect(await rhyzome.run('backup', folder)).toMatchObject({ status: 1, err: expect.stringContaining('no folder') });
    expect((await rhyzome.run('backup', 'verify', folder)).status).toBe(3);
  });

  it('is found out when it is damaged anywhere', async () => {
    const text = gunzipSync(readFileSync(file)).toString();
    const damaged = join(rhyzome.dir, 'damaged.backup');
    const cases: [Buffer | string, RegExp][] = [
      [readFileSync(file).subarray(0, 2000), /cannot be unpacked|cut off/],
      [text.slice(0, text.indexOf('\nend {')), /cut off in the middle of a line|its end is missing/],
      [text.slice(0, text.indexOf('\nend {') + 1), /its end is missing/],
      [text.replace('10.0.0.0/24', '10.0.9.0/24'), /rows of network are not those/],
      [text.replace(/^rhyzome backup 1/, 'rhyzome backup 2'), /later version/],
      [`${text}more\n`, /something follows/],
      ['nothing like it', /cut off|no backup/],
      [text.replace('\ntable ', '\ntabel '), /makes no sense/],
    ];
    for (const [content, message] of cases) {
      writeFileSync(damaged, Buffer.isBuffer(content) ? content : gzipSync(content));
      const outcome = await rhyzome.run('backup', 'verify', damaged);
      expect(outcome, String(message)).toMatchObject({ status: 1, err: expect.stringMatching(message) });
      expect((await rhyzome.run('restore', damaged, '--force')).status).toBe(1);
    }
    writeFileSync(damaged, 'not even packed');
    expect((await rhyzome.run('backup', 'verify', damaged)).err).toContain('cannot be unpacked');
    expect((await everything()).resource).toEqual(before.resource);
  });
});

/** The backup with another header. */
async function withHeader(change: (header: any) => void): Promise<string> {
  const changed = join(rhyzome.dir, 'changed.backup');
  await writeBackup(
    changed,
    (async function* () {
      for await (const part of readBackup(file)) {
        if (part.type === 'header') change(part.header);
        if (part.type !== 'end') yield part as Exclude<Part, { type: 'end' }>;
      }
    })(),
  );
  return changed;
}

describe('rhyzome restore', patience, () => {
  it('refuses what it would destroy, what is newer and what is foreign', async () => {
    expect(await rhyzome.run('restore', file)).toMatchObject({
      status: 1,
      err: expect.stringContaining('holds 1 tenants'),
    });
    const newer = await withHeader((header) => header.migrations.push({ name: '9999_later', checksum: 'x' }));
    expect(await rhyzome.run('restore', newer, '--force')).toMatchObject({
      status: 1,
      err: expect.stringContaining('9999_later, which this version does not know'),
    });
    const foreign = await withHeader((header) => {
      header.migrations[0].checksum = 'x';
    });
    expect((await rhyzome.run('restore', foreign, '--force')).err).toContain('was another one');
    expect((await rhyzome.run('restore', join(rhyzome.dir, 'absent'))).status).toBe(3);
    expect((await rhyzome.run('restore', 'report')).status).toBe(3);
  });

  it('puts every row back, with the walls and triggers around it, and numbers that are ahead', async () => {
    const guardsBefore = await guards();
    const seen = await sql<{ revision: number; version: number }>`
      select p.revision, r.version from placement p join resource r on r.id = p.resource_id order by 1 desc limit 1`.execute(
      rhyzome.db.operator,
    );
    await sql`delete from placement`.execute(rhyzome.db.operator);
    await rhyzome.ok('tenant', 'create', 'globex');
    const done = await rhyzome.json('restore', file, '--force');
    expect(done).toMatchObject({ applied: [], missingContents: [] });
    expect(await guards()).toEqual(guardsBefore);

    const after = await everything();
    const jumped = [
      'audit_era',
      'event',
      'event_counter',
      'job',
      'placement',
      'node_session',
      'resource',
      'tenant_access',
      'restoration',
      'audit',
      'installation',
      'quota',
      'migration',
    ];
    for (const [name, rows] of Object.entries(before))
      if (!jumped.includes(name)) expect(after[name], name).toEqual(rows);
    for (const name of ['placement', 'resource', 'job', 'quota'])
      expect(after[name]!.length, name).toBe(before[name]!.length);

    const { operator } = rhyzome.db;
    const now = await sql<{ revision: number; version: number; spec: object }>`
      select p.revision, r.version, p.spec from placement p join resource r on r.id = p.resource_id
      where p.kind = 'network'`.execute(operator);
    expect(now.rows[0]!.revision).toBeGreaterThan(seen.rows[0]!.revision + 1e9);
    expect(now.rows[0]!.version).toBeGreaterThan(seen.rows[0]!.version + 1e9);
    expect(now.rows[0]!.spec).toMatchObject({ text: 'a\\.\nb\tc' });
    const { rows } = await sql<{ ok: boolean }>`
      select nextval('placement_revision') > (select max(revision) from placement) as ok`.execute(operator);
    expect(rows).toEqual([{ ok: true }]);
    const jobs = await sql`select state, lease_owner, fence > 3 as fenced, run_at <= now() as due from job`.execute(
      operator,
    );
    expect(jobs.rows).toEqual([{ state: 'running', lease_owner: null, fenced: true, due: true }]);
    expect((await sql`select * from quota_drift`.execute(operator)).rows).toEqual([]);
    expect((await rhyzome.audit('system')).map(({ action }) => action)).toContain('db.restore');
    expect((await rhyzome.run('tenant', 'show', 'globex')).status).toBe(3);
  });

  it('lets watchers begin anew, quotas count on, and the audit’s chain hold', async () => {
    const { db } = rhyzome;
    const reader = new EventReader(db);
    await expect(reader.resume('acme', 5)).rejects.toMatchObject({ code: 'cursor_too_old' });
    await db.tenantTransaction('acme', async (tx) => {
      const id = newId();
      await sql`insert into resource (tenant_id, id, kind, name, state, created_by)
        values ('acme', ${id}, 'network', 'next', 'ready', 'x')`.execute(tx);
      await sql`insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
        values ('acme', ${id}, '10.0.0.0/24', '10.0.0.1', 1450, 253, '10.0.0.2')`.execute(tx);
    });
    expect((await sql`select name, used from quota`.execute(db.operator)).rows).toEqual([
      { name: 'networks', used: 2 },
    ]);
    const events = await sql`select 1 from event where kind = 'network'`.execute(db.operator);
    expect(events.rows.length).toBeGreaterThan(0);
    const sealer = new AuditSealer(db, { info: () => undefined, warn: () => undefined } as never);
    sealer.start();
    await expect.poll(async () => (await rhyzome.run('audit', 'verify')).status, { timeout: 30_000 }).toBe(0);
    await sealer.stop();
  });

  it('takes the word for a database that was put back by other means', async () => {
    const revision = async () =>
      (await sql<{ at: number }>`select max(revision) as at from placement`.execute(rhyzome.db.operator)).rows[0]!.at;
    const before = await revision();
    expect((await rhyzome.run('restore', 'mark', '--as-of', 'yesterday')).status).toBe(2);
    const asOf = '2026-11-22T08:00:00.000Z';
    // The test's own connections are open.
    expect((await rhyzome.run('restore', 'mark', '--as-of', asOf)).err).toContain('Others have the database open');
    expect(await rhyzome.json('restore', 'mark', '--as-of', asOf, '--force')).toMatchObject({ takenAt: asOf });
    expect(await revision()).toBeGreaterThan(before);
    expect(await rhyzome.json('restore', 'report')).toMatchObject({
      restoration: { backupAt: asOf, finishedAt: null },
    });
  });

  it('can be done twice, and is ahead of itself', async () => {
    const first = await sql<{ at: number }>`select max(revision) as at from placement`.execute(rhyzome.db.operator);
    await rhyzome.ok('restore', file, '--force');
    const second = await sql<{ at: number }>`select min(revision) as at from placement`.execute(rhyzome.db.operator);
    expect(second.rows[0]!.at).toBeGreaterThan(first.rows[0]!.at);
  });

  it('applies the migrations that are later than the backup, or nothing at all', async () => {
    const folder = join(rhyzome.dir, 'migrations');
    cpSync(migrationsFolder(), folder, { recursive: true });
    const connection = connectionOf(rhyzome.connections.dbOwner, rhyzome.dir);
    const header = (await rhyzome.json('backup', 'verify', file)) as any;
    writeFileSync(join(folder, '9998_wrong.sql'), 'select no_such_thing();');
    await expect(restoreDatabase(connection, file, folder, header, 'admin:x')).rejects.toThrow('9998_wrong');
    expect((await rhyzome.json('tenant', 'list')).length).toBe(2);
    writeFileSync(join(folder, '9998_wrong.sql'), 'alter table tenant add column later text default now()::text;');
    const done = await restoreDatabase(connection, file, folder, header, 'admin:x');
    expect(done.applied).toEqual(['9998_wrong']);
    expect((await sql`select later is not null as ok from tenant limit 1`.execute(rhyzome.db.operator)).rows).toEqual([
      { ok: true },
    ]);
    chmodSync(file, 0o600);
    await rhyzome.ok('restore', file, '--force');
  });
});

describe('the comparison after a restore', patience, () => {
  const take = async (things: { kind: string; id: string; status?: object }[]) => {
    const session = await openSession(
      rhyzome.db,
      { name: 'n1', driver: 't', agentVersion: '0', kinds: [], labels: {}, vcpus: 1, memoryMiB: 1, diskGiB: 1 },
      'r:1',
    );
    const items = things.map(({ kind, id, status = {} }) =>
      Observed.fromPartial({
        ref: { tenantId: 'acme', kind, id },
        phase: Phase.PHASE_READY,
        statusJson: JSON.stringify(status),
      }),
    );
    await recordInventory(rhyzome.db, session, items);
  };

  it('tells what nodes have, lack, and have otherwise, and who has not told anything', async () => {
    expect(await rhyzome.json('restore', 'report')).toMatchObject({ silent: ['n1'], told: [], openJobs: 1 });
    expect((await rhyzome.run('restore', 'finish')).err).toContain('have not told what they have: n1');
    const made = newId();
    await take([
      { kind: 'network', id: made },
      { kind: 'disk', id: disk, status: { sizeBytes: 7 } },
    ]);
    const serial = 'AB12';
    await sql`insert into revocation (id, serial, revoked_by, taken_over_at) values (${newId()}, ${serial}, 'node:n1', now())`.execute(
      rhyzome.db.operator,
    );
    const report = await rhyzome.json('restore', 'report');
    expect(report.revocations).toMatchObject([{ what: serial, from: 'n1' }]);
    expect(report).toMatchObject({
      silent: [],
      told: ['n1'],
      unknown: [{ id: made, fate: 'held' }],
      missing: [{ id: network, name: 'network', isContent: false }],
      different: [{ id: disk, what: 'sizeBytes', onNode: '7', inDatabase: '1' }],
    });
    const text = await rhyzome.ok('restore', 'report');
    for (const words of ['made after the backup', 'makes them again', 'ON THE NODE', 'until `rhyzome restore finish`'])
      expect(text).toContain(words);
  });

  it('ends: what lost its content is failed and not made anew, and the sweep only reports', async () => {
    await take([{ kind: 'network', id: network }]);
    expect((await rhyzome.json('restore', 'report')).missing).toMatchObject([{ id: disk, isContent: true }]);
    const done = await rhyzome.json('restore', 'finish');
    expect(done).toEqual({ failed: [{ kind: 'disk', id: disk, tenant: 'acme' }], purged: [] });
    const left = await sql`select kind from placement`.execute(rhyzome.db.operator);
    expect(left.rows).toEqual([{ kind: 'network' }]);
    const row = await sql`select state, conditions from resource where id = ${disk}`.execute(rhyzome.db.operator);
    expect(row.rows).toMatchObject([{ state: 'failed', conditions: [{ type: 'Ready', reason: 'content_lost' }] }]);
    expect(await rhyzome.json('sweep', 'settings')).toMatchObject({ mode: 'report', isHeld: false });
    expect((await rhyzome.run('restore', 'finish')).err).toContain('finished already');
    expect((await rhyzome.audit('system')).at(-1)).toMatchObject({ action: 'db.restore_finish' });
  });
});
