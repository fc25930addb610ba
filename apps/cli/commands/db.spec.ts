/** `rhyzome db` and what every subcommand says of a database that is away, empty, missing or wrongly named. */
import { cpSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { migrationsFolder } from '../installed.js';
import { TestInstallation } from '../test-harness.js';

const tools = { testCluster, createDatabase, ensureLogin };
let rhyzome: TestInstallation;
beforeAll(async () => {
  rhyzome = await TestInstallation.make(tools, { migrated: false });
});
afterAll(() => rhyzome?.remove());

const all = readdirSync(migrationsFolder())
  .map((file) => file.replace(/\.sql$/, ''))
  .sort();

describe('rhyzome db', () => {
  it('says before the first migration what is to be done', async () => {
    const status = await rhyzome.run('db', 'status', '--json');
    expect(status.status).toBe(1);
    const report = JSON.parse(status.out);
    expect(report).toMatchObject({ database: rhyzome.database, isCurrent: false });
    expect(report.migrations).toEqual(all.map((name) => ({ name, state: 'pending', appliedAt: null })));
    const early = await rhyzome.run('tenant', 'list');
    expect(early).toMatchObject({
      status: 1,
      err: 'rhyzome: The database has not been migrated: run `rhyzome db migrate`.\n',
    });
  });

  it('migrates once, also when asked twice at the same time', async () => {
    const both = await Promise.all([rhyzome.json('db', 'migrate'), rhyzome.json('db', 'migrate')]);
    expect(both.flatMap(({ applied }) => applied)).toEqual(all);
    expect(await rhyzome.json('db', 'migrate')).toEqual({ applied: [] });
    const { isCurrent, migrations } = await rhyzome.json('db', 'status');
    expect(isCurrent).toBe(true);
    expect(migrations.every(({ state }: { state: string }) => state === 'applied')).toBe(true);
    expect(await rhyzome.ok('db', 'status')).toMatch(new RegExp(`${all[0]} +applied +\\d{4}-`));
  });

  it('refuses an edited migration', async () => {
    const folder = join(rhyzome.dir, 'migrations');
    cpSync(migrationsFolder(), folder, { recursive: true });
    writeFileSync(join(folder, `${all[1]}.sql`), '-- edited\n');
    const outcome = await rhyzome.run('db', 'migrate', '--migrations', folder);
    expect(outcome).toMatchObject({ status: 1, err: expect.stringContaining(`Migration ${all[1]} was applied`) });
    const status = await rhyzome.run('db', 'status', '--migrations', folder);
    expect(status).toMatchObject({ status: 1, out: expect.stringMatching(new RegExp(`${all[1]} +changed`)) });
  });
});

describe('rhyzome db reset', () => {
  it('says what it would destroy, asks, and goes on only with the right word', async () => {
    await rhyzome.ok('tenant', 'create', 'acme');
    const refused = await rhyzome.runWith({ answer: 'yes' }, 'db', 'reset');
    expect(refused.status).toBe(1);
    expect(refused.err).toContain(`destroys the database ${rhyzome.database} at 127.0.0.1`);
    expect(refused.err).toContain('1 tenants and 0 resources');
    expect((await rhyzome.run('db', 'reset')).status).toBe(2);
    await rhyzome.ok('tenant', 'show', 'acme');
    const done = await rhyzome.runWith({ answer: rhyzome.database }, 'db', 'reset');
    expect(done).toMatchObject({ status: 0, out: expect.stringContaining('Emptied') });
    expect((await rhyzome.run('tenant', 'show', 'acme')).status).toBe(3);
    expect(await rhyzome.audit('system')).toEqual([
      expect.objectContaining({
        action: 'db.reset',
        details: { way: 'emptied', destroyed: { exists: true, tenants: 1, resources: 0 } },
      }),
    ]);
    await rhyzome.ok('tenant', 'create', 'acme');
  });

  it('drops and makes it anew where the login may, and makes a missing one', async () => {
    const owner = new URL(rhyzome.connections.dbOwner);
    const superuser = (await testCluster()).superuserUrl(rhyzome.database);
    const config = rhyzome.settings({ ...rhyzome.connections, dbOwner: superuser }, 'superuser.json');
    const first = await rhyzome.runWith({ config }, 'db', 'reset', '--force', '--json');
    expect(JSON.parse(first.out)).toMatchObject({ way: 'recreated', destroyed: { tenants: 1 }, applied: all });
    await rhyzome.db.close();
    await (await testCluster()).dropDatabase(rhyzome.database);
    expect(await rhyzome.run('tenant', 'list')).toMatchObject({
      status: 4,
      err: 'rhyzome: The database does not exist. `rhyzome db reset` creates it.\n',
    });
    expect(await rhyzome.run('db', 'reset')).toMatchObject({
      status: 78,
      err: expect.stringMatching(/does not exist, and the login may not create it\. As a superuser: create database/),
    });
    const second = await rhyzome.runWith({ config }, 'db', 'reset', '--json');
    expect(JSON.parse(second.out)).toMatchObject({ way: 'created', destroyed: { exists: false } });
    await rhyzome.ok('tenant', 'list');
    expect(owner.password).not.toBe('');
    for (const { out, err } of [first, second]) expect(out + err).not.toContain(new URL(superuser).password);
  });
});

describe('the settings', () => {
  it('end every subcommand with 78 where they are missing or wrong, and 4 where nobody answers', async () => {
    const cases: [object | null, number, RegExp][] = [
      [null, 78, /there is no such file/],
      [{}, 78, /\/dbOperator: is missing, and so is \/db/],
      [{ db: 'nonsense' }, 78, /\/db: is not a PostgreSQL connection/],
      [{ db: rhyzome.connections.db, unknown: 1 }, 78, /unknown/],
      [{ dbOperator: rhyzome.connections.dbOperator.replace(/:[^:@]+@/, ':wrong@') }, 78, /refuses the login/],
      [{ dbOperator: rhyzome.connections.db }, 78, /may not take on the role/],
      [{ dbOperator: 'postgresql://u:geheim@127.0.0.1:1/x' }, 4, /127\.0\.0\.1, port 1 is away/],
    ];
    for (const [content, status, message] of cases) {
      const config = content ? rhyzome.settings(content, 'case.json') : join(rhyzome.dir, 'absent.json');
      const outcome = await rhyzome.runWith({ config }, 'tenant', 'list');
      expect(outcome).toMatchObject({ status, out: '', err: expect.stringMatching(message) });
      expect(outcome.err).not.toMatch(/geheim|wrong@/);
    }
    const config = rhyzome.settings({ dbOwner: 'postgresql://u@127.0.0.1:1/x' }, 'case.json');
    for (const verb of ['migrate', 'status', 'reset'])
      expect((await rhyzome.runWith({ config }, 'db', verb)).status).toBe(4);
  });

  it('warn in one line where one login is all there is', async () => {
    const config = rhyzome.settings({ db: rhyzome.connections.dbOwner }, 'one.json');
    const outcome = await rhyzome.runWith({ config }, 'tenant', 'list', '--json');
    expect(outcome.status).toBe(0);
    expect(JSON.parse(outcome.out)).toHaveLength(1);
    expect(outcome.err).toMatch(/^rhyzome: warning: no dbOperator .* SET ROLE only\.\n$/);
  });
});
