/**
 * Destroys a database and makes it anew, or makes one that is missing. Dropping needs a login that may create databases;
 * where it may not, but owns the database, the schema `public` is emptied instead, and everything else stays.
 */
import type { ConnectionOptions } from '#libs/config';
import { createPool } from '#libs/db';
import { CliError, exitStatus } from './exit-status.js';

export interface DatabaseContent {
  exists: boolean;
  /** Customers, `system` aside; null: not migrated. */
  tenants: number | null;
  resources: number | null;
}

export type ResetWay = 'created' | 'recreated' | 'emptied';

type Query = <Row = unknown>(text: string, values?: unknown[]) => Promise<Row[]>;

/** What would be destroyed. */
export async function inspectDatabase(connection: ConnectionOptions): Promise<DatabaseContent> {
  const missing = { exists: false, tenants: null, resources: null };
  if (!(await onMaintenance(connection, (query) => databaseExists(query, connection.database)))) return missing;
  return withQuery(connection, async (query) => {
    const [found] = await query<{ ok: boolean }>("select to_regclass('public.resource') is not null as ok");
    if (!found?.ok) return { exists: true, tenants: null, resources: null };
    await query('set role rhyzome_owner');
    const [counts] = await query<{ tenants: string; resources: string }>(
      "select (select count(*) from tenant where id <> 'system')::text as tenants, (select count(*) from resource)::text as resources",
    );
    return { exists: true, tenants: Number(counts?.tenants), resources: Number(counts?.resources) };
  });
}

/** Afterwards the database is there and empty. Sessions that others have in it end, except where it is only emptied. */
export async function resetDatabase(connection: ConnectionOptions): Promise<ResetWay> {
  const name = quoted(connection.database);
  const done = await onMaintenance(connection, async (query): Promise<ResetWay | undefined> => {
    const exists = await databaseExists(query, connection.database);
    const [login] = await query<{ ok: boolean }>(
      'select rolcreatedb or rolsuper as ok from pg_roles where rolname = current_user',
    );
    if (!login?.ok) {
      if (exists) return undefined;
      throw new CliError(
        exitStatus.configuration,
        'login_may_not',
        `The database ${connection.database} does not exist, and the login may not create it. As a superuser: ` +
          `create database ${name} owner ${quoted(connection.user)} encoding 'UTF8' template template0; then \`rhyzome db migrate\`.`,
      );
    }
    const [before] = await query<{ owner: string }>(
      'select pg_get_userbyid(datdba) as owner from pg_database where datname = $1',
      [connection.database],
    );
    if (exists) await query(`drop database if exists ${name} with (force)`);
    await query(`create database ${name}${before ? ` owner ${quoted(before.owner)}` : ''}`);
    return exists ? 'recreated' : 'created';
  });
  if (done) return done;
  await withQuery(connection, async (query) => {
    await query('begin; drop schema public cascade; create schema public; commit');
  });
  return 'emptied';
}

async function databaseExists(query: Query, name: string): Promise<boolean> {
  return (await query('select 1 from pg_database where datname = $1', [name])).length > 0;
}

/** In the server's database `postgres`, from where others are made and dropped. */
function onMaintenance<T>(connection: ConnectionOptions, work: (query: Query) => Promise<T>): Promise<T> {
  return withQuery({ ...connection, database: 'postgres' }, work);
}

/** One session, without a time limit. */
async function withQuery<T>(connection: ConnectionOptions, work: (query: Query) => Promise<T>): Promise<T> {
  const pool = createPool(connection, null, { max: 1, applicationName: 'rhyzome db reset', statementTimeoutMs: 0 });
  try {
    const client = await pool.connect();
    try {
      return await work(async (text, values) => (await client.query(text, values)).rows);
    } finally {
      client.release(true);
    }
  } finally {
    await pool.end();
  }
}

function quoted(identifier: string): string {
  return `"${identifier.replaceAll('"', '""')}"`;
}
