/**
 * Runs sql/migrations/NNNN_name.sql in order, each in one transaction together with its row in `migration`. A released
 * file whose text changed is refused: what ran on customers' databases is history.
 */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { createPool } from './pools.js';
import { ensureRoles } from './roles.js';

const migrationTable = `
  create table if not exists migration (name text primary key, checksum text not null, applied_at timestamptz not null default now());
  grant select on migration to rhyzome_app, rhyzome_operator`;

const filePattern = /^(\d{4})_([a-z0-9_]+)\.sql$/;

export interface MigrationFile {
  name: string;
  sql: string;
  /** SHA-256 of the text, lower-case hex. */
  checksum: string;
}

export interface MigrationStatus {
  name: string;
  state: 'applied' | 'pending' | 'changed' | 'missing';
  appliedAt: Date | null;
}

export class MigrationError extends Error {
  override readonly name = 'MigrationError';
  constructor(
    readonly code: 'changed' | 'missing' | 'out_of_order' | 'bad_name' | 'failed' | 'not_owner',
    message: string,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The files of a folder in their order. Throws MigrationError `bad_name`. */
export async function readMigrations(folder: string): Promise<MigrationFile[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.sql')).sort();
  const numbers = new Set<string>();
  return Promise.all(
    names.map(async (name) => {
      const number = filePattern.exec(name)?.[1];
      if (!number) throw new MigrationError('bad_name', `${join(folder, name)}: not named NNNN_name.sql`);
      if (numbers.has(number)) throw new MigrationError('bad_name', `${join(folder, name)}: the number stands twice`);
      numbers.add(number);
      const sql = await readFile(join(folder, name), 'utf8');
      return { name: name.slice(0, -4), sql, checksum: createHash('sha256').update(sql).digest('hex') };
    }),
  );
}

async function appliedMigrations(client: pg.ClientBase): Promise<Map<string, { checksum: string; at: Date }>> {
  const exists = await client.query<{ ok: boolean }>("select to_regclass('public.migration') is not null as ok");
  if (!exists.rows[0]?.ok) return new Map();
  const rows = await client.query<{ name: string; checksum: string; applied_at: Date }>(
    'select name, checksum, applied_at from migration order by name',
  );
  return new Map(rows.rows.map((row) => [row.name, { checksum: row.checksum, at: row.applied_at }]));
}

function compare(files: MigrationFile[], applied: Map<string, { checksum: string; at: Date }>): MigrationStatus[] {
  const known = new Set(files.map((file) => file.name));
  const statuses = files.map((file): MigrationStatus => {
    const row = applied.get(file.name);
    if (!row) return { name: file.name, state: 'pending', appliedAt: null };
    return { name: file.name, state: row.checksum === file.checksum ? 'applied' : 'changed', appliedAt: row.at };
  });
  for (const [name, row] of applied) {
    if (!known.has(name)) statuses.push({ name, state: 'missing', appliedAt: row.at });
  }
  return statuses.sort((a, b) => a.name.localeCompare(b.name));
}

/** What is applied, what is not, what does not fit. */
export async function migrationStatus(connection: pg.PoolConfig, folder: string): Promise<MigrationStatus[]> {
  const files = await readMigrations(folder);
  return withClient(connection, async (client) => compare(files, await appliedMigrations(client)));
}

/**
 * Brings the database up to date as rhyzome_owner; returns the names that ran. Safe to run from several places at once.
 * Throws MigrationError.
 */
export async function migrate(connection: pg.PoolConfig, folder: string): Promise<string[]> {
  const files = await readMigrations(folder);
  return withClient(connection, async (client) => {
    await ensureRoles(client);
    await client.query("select pg_advisory_lock(hashtextextended('rhyzome.migrate', 0))");
    await client.query('set role rhyzome_owner');
    await client.query(migrationTable);
    const statuses = compare(files, await appliedMigrations(client));
    refuseMisfits(statuses);
    const pending = files.filter((file) => statuses.find((s) => s.name === file.name)?.state === 'pending');
    for (const file of pending) await run(client, file);
    return pending.map((file) => file.name);
  });
}

/** Applies these, in their order, in a transaction that is open and is the owner's. Throws MigrationError `failed`. */
export async function applyMigrations(client: pg.ClientBase, files: readonly MigrationFile[]): Promise<void> {
  await client.query(migrationTable);
  for (const file of files) await apply(client, file);
}

function refuseMisfits(statuses: MigrationStatus[]): void {
  const changed = statuses.find((s) => s.state === 'changed');
  if (changed) {
    throw new MigrationError(
      'changed',
      `Migration ${changed.name} was applied at ${changed.appliedAt?.toISOString()} and its file has changed since. ` +
        'Restore the file and put the change into a new migration.',
    );
  }
  const missing = statuses.find((s) => s.state === 'missing');
  if (missing) {
    throw new MigrationError(
      'missing',
      `The database has migration ${missing.name}, which this version does not know: it is newer than the program.`,
    );
  }
  const firstPending = statuses.findIndex((s) => s.state === 'pending');
  const late = statuses.findLast((s) => s.state === 'applied');
  if (firstPending >= 0 && late && statuses.indexOf(late) > firstPending) {
    throw new MigrationError(
      'out_of_order',
      `Migration ${statuses[firstPending]!.name} is new but stands before ${late.name}, which is applied. Give it the next number.`,
    );
  }
}

/**
 * A table that a migration changes is locked against everybody; whoever comes later waits behind it. So it waits for that lock
 * no longer than requests can wait, and tries again.
 */
const LOCK_MS = 2_000;
const AGAIN_MS = 1_000;
const MAX_TRIES = 60;
/** lock_not_available, deadlock_detected. */
const inTheWay: ReadonlySet<unknown> = new Set(['55P03', '40P01']);

async function run(client: pg.ClientBase, file: MigrationFile): Promise<void> {
  for (let tries = 1; ; tries += 1) {
    await client.query('begin');
    try {
      await client.query(`set local lock_timeout = ${LOCK_MS}`);
      await apply(client, file);
      await client.query('commit');
      return;
    } catch (error) {
      await client.query('rollback');
      const { code } = ((error as Error).cause ?? error) as { code?: string };
      if (!inTheWay.has(code) || tries === MAX_TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }
}

async function apply(client: pg.ClientBase, file: MigrationFile): Promise<void> {
  try {
    await client.query(file.sql);
    await client.query('insert into migration (name, checksum) values ($1, $2)', [file.name, file.checksum]);
  } catch (error) {
    throw new MigrationError('failed', `Migration ${file.name}: ${(error as Error).message}`, { cause: error });
  }
}

async function withClient<T>(connection: pg.PoolConfig, work: (client: pg.ClientBase) => Promise<T>): Promise<T> {
  const pool = createPool(connection, null, { max: 1, applicationName: 'rhyzome migrate', statementTimeoutMs: 0 });
  try {
    const client = await pool.connect();
    try {
      return await work(client);
    } finally {
      client.release(true);
    }
  } finally {
    await pool.end();
  }
}
