/** The server that all tests of a run share. */
import pg from 'pg';
import { describe, expect, it } from 'vitest';
import { ensureLogin } from './create-database.js';
import { testCluster } from './test-cluster.js';

describe('ensureLogin', () => {
  it('makes a login that can take on its roles and nothing more, and changes its password', async () => {
    const cluster = await testCluster();
    const name = `login ${process.pid}`;
    const role = `role ${process.pid}`;
    for (const password of ["first's", 'second']) {
      await ensureLogin(cluster.superuserUrl(), { name, password, memberOf: [role] });
      const client = new pg.Client({
        connectionString: cluster.url({ user: name, password, database: 'postgres' }),
      });
      await client.connect();
      try {
        await client.query(`set role "${role}"`);
        await expect(client.query('set role postgres')).rejects.toThrow('permission denied');
      } finally {
        await client.end();
      }
    }
  });
});

describe('testCluster', () => {
  it('gives databases, copied from a template if wished', async () => {
    const cluster = await testCluster();
    const names = ['template "x"', 'copy'].map((name) => `${name} ${process.pid}`) as [string, string];
    try {
      expect(await cluster.createDatabase(names[0])).toBe(true);
      expect(await cluster.createDatabase(names[0])).toBe(false);
      const template = new pg.Client({ connectionString: cluster.superuserUrl(names[0]) });
      await template.connect();
      await template.query('create table t as select 7 as x');
      await template.end();
      await cluster.createDatabase(names[1], names[0]);
      const copy = new pg.Client({ connectionString: cluster.superuserUrl(names[1]) });
      await copy.connect();
      expect((await copy.query('select x from t')).rows).toEqual([{ x: 7 }]);
      await copy.end();
    } finally {
      for (const name of names) await cluster.dropDatabase(name);
    }
  });
});
