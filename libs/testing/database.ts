/** A database of a test's own: a clone of a template with all migrations, which the first test of the run makes. */

import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import type { PoolConfig } from 'pg';
import { newId } from '#libs/core';
import { createPool, Database, type DatabaseOptions, Listener, migrate, readMigrations } from '#libs/db';
import { testCluster } from '#libs/devdb';

export const migrationsFolder = fileURLToPath(new URL('../../sql/migrations', import.meta.url));

export interface TestDatabase {
  db: Database;
  listener: Listener;
  connection: PoolConfig;
  /** As URL, for a configuration file. */
  url: string;
  close(): Promise<void>;
}

/** Names the template by what is in it, so that an edited migration makes a new one. */
async function templateName(): Promise<string> {
  const files = await readMigrations(migrationsFolder);
  const hash = createHash('sha256').update(files.map((file) => file.checksum).join());
  return `template_${hash.digest('hex').slice(0, 16)}`;
}

/** One of the test files makes it, the others wait. */
async function ensureTemplate(): Promise<string> {
  const cluster = await testCluster();
  const name = await templateName();
  const aside = `${name}_${process.pid}_${newId().slice(-6)}`;
  const pool = createPool({ connectionString: cluster.superuserUrl() }, null, { max: 1 });
  const client = await pool.connect();
  try {
    await client.query('set lock_timeout = 0');
    await client.query("select pg_advisory_lock(hashtextextended('rhyzome.test_template', 0))");
    const found = await client.query('select 1 from pg_database where datname = $1', [name]);
    if (found.rows.length === 0) {
      await cluster.createDatabase(aside);
      await migrate({ connectionString: cluster.superuserUrl(aside) }, migrationsFolder);
      await client.query(`alter database "${aside}" rename to "${name}"`);
    }
    return name;
  } finally {
    client.release(true);
    await pool.end();
  }
}

let template: Promise<string> | undefined;

export async function testDatabase(options: { onQuery?: DatabaseOptions['onQuery'] } = {}): Promise<TestDatabase> {
  const cluster = await testCluster();
  template ??= ensureTemplate();
  const name = `test_${newId().replaceAll('-', '')}`;
  await cluster.createDatabase(name, await template);
  const url = cluster.superuserUrl(name);
  const connection = { connectionString: url };
  const db = new Database({ app: connection, ...options });
  const listener = new Listener(connection, 'rhyzome_operator');
  return {
    db,
    listener,
    connection,
    url,
    close: async () => {
      await listener.close();
      await db.close();
      await cluster.dropDatabase(name);
    },
  };
}
