/** The migrator on databases of its own: order, checksums, two at once, and a migration that fails. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { createPool, migrate, migrationStatus, readMigrations } from '#libs/db';
import { testCluster } from '#libs/devdb';
import { migrationsFolder } from '#libs/testing';

let folder: string;
let name: string;
let connection: { connectionString: string };

beforeEach(async () => {
  const cluster = await testCluster();
  folder = await mkdtemp(join(tmpdir(), 'rhyzome-migrations-'));
  name = `migrator_${newId().replaceAll('-', '')}`;
  await cluster.createDatabase(name);
  connection = { connectionString: cluster.superuserUrl(name) };
});
afterEach(async () => {
  await (await testCluster()).dropDatabase(name);
  await rm(folder, { recursive: true });
});

const write = (file: string, text: string) => writeFile(join(folder, file), text);

async function query(text: string): Promise<unknown[]> {
  const pool = createPool(connection, null, { max: 1 });
  try {
    return (await pool.query(text)).rows;
  } finally {
    await pool.end();
  }
}

describe('migrate', () => {
  test('runs what is pending in order, once, as the owner, and says what it ran', async () => {
    await write('0002_more.sql', 'insert into thing values (1), (2);');
    await write('0001_thing.sql', 'create table thing (n int); create function f() returns int language sql return 1;');
    expect(await migrationStatus(connection, folder)).toMatchObject([
      { name: '0001_thing', state: 'pending', appliedAt: null },
      { name: '0002_more', state: 'pending' },
    ]);
    expect(await migrate(connection, folder)).toEqual(['0001_thing', '0002_more']);
    expect(await migrate(connection, folder)).toEqual([]);
    await write('0003_third.sql', 'delete from thing where n = 1;');
    expect(await migrate(connection, folder)).toEqual(['0003_third']);
    expect(await query('select n from thing')).toEqual([{ n: 2 }]);
    expect(await query("select tableowner from pg_tables where tablename = 'thing'")).toEqual([
      { tableowner: 'rhyzome_owner' },
    ]);
    expect(await migrationStatus(connection, folder)).toMatchObject(
      Array.from({ length: 3 }, () => ({ state: 'applied', appliedAt: expect.any(Date) })),
    );
  });

  test('refuses an applied file that was edited, one that is gone, and one that came late', async () => {
    await write('0001_thing.sql', 'create table thing (n int);');
    await write('0003_third.sql', 'select 1;');
    await migrate(connection, folder);
    await write('0001_thing.sql', 'create table thing (n bigint);');
    await expect(migrate(connection, folder)).rejects.toMatchObject({ code: 'changed' });
    expect(await migrationStatus(connection, folder)).toMatchObject([{ state: 'changed' }, { state: 'applied' }]);
    await write('0001_thing.sql', 'create table thing (n int);');
    await write('0002_late.sql', 'create table late (n int);');
    await expect(migrate(connection, folder)).rejects.toMatchObject({ code: 'out_of_order' });
    await rm(join(folder, '0002_late.sql'));
    await rm(join(folder, '0003_third.sql'));
    await expect(migrate(connection, folder)).rejects.toMatchObject({ code: 'missing' });
    expect(await query("select to_regclass('late') as late")).toEqual([{ late: null }]);
  });

  test.each([['nonumber.sql'], ['001_short.sql'], ['0001_Upper.sql'], ['0001-dash.sql']])(
    'refuses the name %s',
    async (file) => {
      await write(file, 'select 1;');
      await expect(readMigrations(folder)).rejects.toMatchObject({ code: 'bad_name' });
    },
  );

  test('refuses a number that stands twice', async () => {
    await write('0001_one.sql', 'select 1;');
    await write('0001_other.sql', 'select 1;');
    await expect(migrate(connection, folder)).rejects.toMatchObject({ code: 'bad_name' });
  });

  test('rolls a failing migration back wholly, keeps those before it, and goes on when it is mended', async () => {
    await write('0001_thing.sql', 'create table thing (n int);');
    await write('0002_fails.sql', 'insert into thing values (1); create table other (n int); select 1 / 0;');
    await expect(migrate(connection, folder)).rejects.toMatchObject({
      code: 'failed',
      message: 'Migration 0002_fails: division by zero',
    });
    expect(await query("select n, to_regclass('other') from thing")).toEqual([]);
    expect(await query("select to_regclass('other') as other")).toEqual([{ other: null }]);
    await write('0002_fails.sql', 'insert into thing values (2);');
    expect(await migrate(connection, folder)).toEqual(['0002_fails']);
    expect(await query('select n from thing')).toEqual([{ n: 2 }]);
  });

  test('started from several places at once, runs each migration once', async () => {
    await write('0001_thing.sql', 'create table thing (n int); select pg_sleep(0.2);');
    await write('0002_more.sql', 'insert into thing values (1);');
    const ran = await Promise.all([1, 2, 3].map(() => migrate(connection, folder)));
    expect(ran.flat().sort()).toEqual(['0001_thing', '0002_more']);
    expect(await query('select n from thing')).toEqual([{ n: 1 }]);
  });

  test('brings an empty database to the schema that this version has', async () => {
    const files = await readMigrations(migrationsFolder);
    expect(await migrate(connection, migrationsFolder)).toEqual(files.map((file) => file.name));
    expect(await query('select count(*)::int as n from installation')).toEqual([{ n: 1 }]);
  });
});
