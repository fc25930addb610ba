/**
 * Puts a backup in place of what a database holds, in one transaction: whatever happens, it holds the one or the other. The
 * schema is made as it was when the backup was taken, filled, and brought up to date by the later migrations. Then all
 * numbers jump ahead of whatever was given out since the backup, and nodes are told nothing until `rhyzome restore finish`.
 */
import type { ConnectionOptions } from '#libs/config';
import { newId } from '#libs/core';
import { applyMigrations, copyIn, type MigrationFile, makeRoles, readMigrations, withSession } from '#libs/db';
import { CliError, exitStatus } from '../exit-status.js';
import { type BackupHeader, readBackup, type TableSum } from './backup-file.js';
import { jumpAhead } from './jump-ahead.js';
import { quoted } from './take-backup.js';

type Session = Parameters<Parameters<typeof withSession>[3]>[0];

export interface Restored {
  id: string;
  /** Migrations that are later than the backup. */
  applied: string[];
  tables: Record<string, TableSum>;
}

/** Tries again where servers that are still there held something. */
const TRIES = 5;

/** Which of this version's migrations the backup has. Throws CliError `backup_newer` or `backup_foreign`. */
export async function migrationsOf(
  header: BackupHeader,
  folder: string,
): Promise<{ had: MigrationFile[]; later: MigrationFile[] }> {
  const files = await readMigrations(folder);
  for (const { name, checksum } of header.migrations) {
    const file = files.find((one) => one.name === name);
    if (!file)
      throw new CliError(
        exitStatus.refused,
        'backup_newer',
        `The backup is of Rhyzome ${header.version} and has migration ${name}, which this version does not know. Restore it with that version or a later one.`,
      );
    if (file.checksum !== checksum)
      throw new CliError(
        exitStatus.refused,
        'backup_foreign',
        `Migration ${name} was another one when the backup was taken. Restore it with Rhyzome ${header.version}.`,
      );
  }
  const names = new Set(header.migrations.map(({ name }) => name));
  return { had: files.filter(({ name }) => names.has(name)), later: files.filter(({ name }) => !names.has(name)) };
}

/** Servers and other programs of Rhyzome that have the database open. */
export async function othersIn(connection: ConnectionOptions): Promise<string[]> {
  return withSession(connection, null, 'rhyzome restore', async (session) => {
    const { rows } = await session.query<{ name: string }>(
      `select distinct application_name as name ${others} order by 1`,
    );
    return rows.map(({ name }) => name);
  });
}

const others = `from pg_stat_activity
  where datname = current_database() and pid <> pg_backend_pid() and application_name like 'rhyzome%'`;

/** Throws CliError where the backup is damaged or others do not let go of the database. */
export async function restoreDatabase(
  connection: ConnectionOptions,
  file: string,
  folder: string,
  header: BackupHeader,
  by: string,
): Promise<Restored> {
  const migrations = await migrationsOf(header, folder);
  for (let tries = 1; ; tries++) {
    try {
      return await withSession(connection, null, 'rhyzome restore', async (session) => {
        await session.query('begin');
        // As far as this login may; the others, and those that come back at once, wait for the locks taken next.
        await session.query(`select pg_terminate_backend(pid) ${others} and pg_has_role(usesysid, 'member')`);
        await session.query('drop schema public cascade; create schema public');
        await makeRoles(session);
        await session.query('set local role rhyzome_owner');
        await applyMigrations(session, migrations.had);
        const tables = await load(session, file);
        await applyMigrations(session, migrations.later);
        const id = newId();
        await withoutTriggers(session, () => jumpAhead(session, { id, header, by }));
        await session.query('commit');
        return { id, applied: migrations.later.map(({ name }) => name), tables };
      });
    } catch (error) {
      const isHeld = ['40P01', '55P03'].includes((error as { code?: string }).code ?? '');
      if (!isHeld || tries === TRIES) throw error;
    }
  }
}

/**
 * For a database that was put back to an older state by PostgreSQL's own tools: what a restore does after it has put the rows
 * back.
 */
export async function markRestored(
  connection: ConnectionOptions,
  header: Pick<BackupHeader, 'id' | 'takenAt' | 'version'>,
  by: string,
): Promise<string> {
  const id = newId();
  await withSession(connection, 'rhyzome_owner', 'rhyzome restore', async (session) => {
    await session.query('begin');
    await withoutTriggers(session, () => jumpAhead(session, { id, header, by }));
    await session.query('commit');
  });
  return id;
}

async function load(session: Session, file: string): Promise<Record<string, TableSum>> {
  let sums: Record<string, TableSum> = {};
  await withoutTriggers(session, async () => {
    const walled = await session.query<{ name: string }>(
      `select relname as name from pg_class where relnamespace = 'public'::regnamespace and relforcerowsecurity`,
    );
    const force = (word: string) =>
      walled.rows.map(({ name }) => `alter table ${quoted(name)} ${word} row level security`).join('; ');
    // COPY into a table is refused where its walls hold for the owner, too.
    await session.query(force('no force'));
    await session.query(
      `truncate ${(await tablesOf(session))
        .filter((name) => name !== 'migration')
        .map(quoted)
        .join(', ')}`,
    );
    for await (const part of readBackup(file)) {
      if (part.type === 'table') {
        const columns = part.columns.map(quoted).join(', ');
        await copyIn(session, `${quoted(part.name)} (${columns})`, part.rows);
      }
      if (part.type === 'sequence') {
        await session.query('select setval($1::regclass, $2, $3)', [quoted(part.name), part.value, part.isCalled]);
      }
      if (part.type === 'end') sums = part.tables;
    }
    await session.query('set constraints all immediate');
    await session.query(force('force'));
  });
  return sums;
}

async function tablesOf(session: Session): Promise<string[]> {
  const { rows } = await session.query<{ name: string }>(
    `select relname as name from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1`,
  );
  return rows.map(({ name }) => name);
}

/** What triggers made of these rows (events, tags, charges) is in the backup already. Foreign keys still hold. */
async function withoutTriggers(session: Session, work: () => Promise<void>): Promise<void> {
  const tables = await tablesOf(session);
  const all = (word: string) => tables.map((name) => `alter table ${quoted(name)} ${word} trigger user`).join('; ');
  await session.query(all('disable'));
  await work();
  await session.query(all('enable'));
}
