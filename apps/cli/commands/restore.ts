/**
 * `rhyzome restore`: puts a backup in place of a database, shows how the nodes differ from it, and ends the comparison. Until
 * then nodes are told nothing.
 */
import { Command, InvalidArgumentError } from 'commander';
import { sql } from 'kysely';
import type { ConnectionOptions } from '#libs/config';
import { newId, SYSTEM_TENANT } from '#libs/core';
import type { Tx } from '#libs/db';
import type { RestoreReport } from '../backup/restoration.js';
import { administrator, type Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { migrationsFolder, programVersion } from '../installed.js';
import { table } from '../table.js';
import { refuseMissing, rowsOf } from './backup.js';

export function restoreCommand(context: Context): Command {
  return new Command('restore')
    .description('put a backup in place of the database, then compare it with the nodes')
    .addCommand(load(context), { isDefault: true })
    .addCommand(mark(context))
    .addCommand(report(context))
    .addCommand(finish(context));
}

function load(context: Context): Command {
  return new Command('load')
    .description('put a backup in place of an empty database; one that is not empty needs --force')
    .argument('<file>')
    .option('--force', 'destroy what the database holds, and end the sessions that others have in it')
    .action(async (file: string, { force = false }: { force?: boolean }) => {
      refuseMissing(file);
      const { verifyBackup } = await import('../backup/backup-file.js');
      const { migrationsOf, restoreDatabase } = await import('../backup/restore-database.js');
      const { header } = await verifyBackup(file);
      await migrationsOf(header, migrationsFolder());
      const connection = await context.connection('dbOwner');
      await context.reach(connection, () => refuseInUse(connection, force));
      const done = await context.reach(connection, () =>
        restoreDatabase(connection, file, migrationsFolder(), header, administrator()),
      );
      const missingContents = await contentsMissing(context);
      const rows = rowsOf(done);
      context.show(
        { restoration: done.id, takenAt: header.takenAt, rows, applied: done.applied, missingContents },
        words(
          `The database is as of ${header.takenAt}: ${rows} rows${done.applied.length > 0 ? `, and applied ${done.applied.length} later migrations` : ''}.`,
          missingContents,
        ),
      );
    });
}

function mark(context: Context): Command {
  return new Command('mark')
    .description(
      'say that the database was put back to an older state by PostgreSQL’s own tools; the servers are stopped',
    )
    .requiredOption('--as-of <time>', 'what it shows is as of then, e.g. 2026-11-22T08:00:00Z', time)
    .option('--force', 'also while others have the database open')
    .action(async ({ asOf, force = false }: { asOf: Date; force?: boolean }) => {
      const { markRestored, othersIn } = await import('../backup/restore-database.js');
      const connection = await context.connection('dbOwner');
      const others = force ? [] : await context.reach(connection, () => othersIn(connection));
      if (others.length > 0) throw stillOpen(others);
      const header = { id: newId(), takenAt: asOf.toISOString(), version: programVersion() };
      const id = await context.reach(connection, () => markRestored(connection, header, administrator()));
      const missingContents = await contentsMissing(context);
      context.show(
        { restoration: id, takenAt: header.takenAt, missingContents },
        words(`The database is as of ${header.takenAt}.`, missingContents),
      );
    });
}

function time(text: string): Date {
  const value = new Date(text);
  if (!/^\d{4}-\d\d-\d\dT.*(Z|[+-]\d\d:\d\d)$/.test(text) || Number.isNaN(value.getTime()))
    throw new InvalidArgumentError('It must be a time with its offset, e.g. 2026-11-22T08:00:00Z.');
  return value;
}

function stillOpen(others: string[]): CliError {
  const message = `Others have the database open (${others.join(', ')}): stop the servers first. --force goes on all the same.`;
  return new CliError(exitStatus.refused, 'in_use', message);
}

/** Throws CliError where there is something to destroy, or somebody to disturb. */
async function refuseInUse(connection: ConnectionOptions, force: boolean): Promise<void> {
  const { inspectDatabase } = await import('../reset-database.js');
  const { othersIn } = await import('../backup/restore-database.js');
  const content = await inspectDatabase(connection);
  if (!content.exists)
    throw new CliError(
      exitStatus.databaseAway,
      'database_missing',
      'The database does not exist. `rhyzome db reset` creates it.',
    );
  if (force) return;
  if (content.tenants || content.resources)
    throw new CliError(
      exitStatus.refused,
      'not_empty',
      `The database ${connection.database} holds ${content.tenants} tenants and ${content.resources} resources. --force destroys them.`,
    );
  const others = await othersIn(connection);
  if (others.length > 0) throw stillOpen(others);
}

/** Digests of contents that the database names and the content store has not; null: no store is configured here. */
async function contentsMissing(context: Context): Promise<string[] | null> {
  const { settings } = await context.settings();
  if (!settings.storage) return null;
  const { DirectoryStore } = await import('#libs/storage');
  const store = new DirectoryStore(settings.storage.dir);
  const named = await context.read(namedContents);
  const missing: string[] = [];
  for (const sha256 of named) if (!(await store.has(sha256))) missing.push(sha256);
  return missing;
}

async function namedContents(tx: Tx): Promise<string[]> {
  const found = await sql<{ sha256: string }>`
    select sha256 from image where sha256 is not null union select image_sha256 from disk where image_sha256 is not null
    union select image_sha256 from deleted_disk where image_sha256 is not null order by 1`.execute(tx);
  return found.rows.map(({ sha256 }) => sha256);
}

function words(done: string, missing: string[] | null): string {
  const contents =
    missing === null
      ? 'No content store is configured here: whether images have their content was not looked at.'
      : missing.length === 0
        ? 'The content store has all that the database names.'
        : `The content store lacks ${missing.length} that the database names; put them back from its own backup:\n  ${missing.join('\n  ')}`;
  return [
    done,
    contents,
    'Nodes are told nothing and nothing is removed until you have compared them:',
    '  1. Start rhyzome-grpc, and let all agents connect.',
    '  2. rhyzome restore report',
    '  3. rhyzome restore finish',
    'What was withdrawn after the backup is valid again (API tokens, grants, accounts): withdraw it anew.',
    'Certificates that were revoked after it are, too, until a node has connected that knows of them: the report tells.',
    'Enrolment tokens that were not used are void.',
  ].join('\n');
}

function report(context: Context): Command {
  return new Command('report')
    .description('how the nodes differ from the restored database, and what to do about it')
    .action(async () => {
      const { readReport } = await import('../backup/restoration.js');
      const found = await context.read(readReport);
      context.show(found, reportWords(found));
    });
}

const MOST_SHOWN = 100;

function reportWords(found: RestoreReport): string {
  const { restoration, told, silent, unknown, missing, different, openJobs, revocations } = found;
  const done = restoration.finishedAt ? ` Finished at ${restoration.finishedAt.toISOString()}.` : '';
  const parts = [
    `As of ${restoration.backupAt.toISOString()}, restored at ${restoration.restoredAt.toISOString()} by ${restoration.restoredBy}.${done}`,
    `${told.length} nodes have told what they have.${silent.length > 0 ? ` Still silent: ${silent.join(', ')}.` : ''}` +
      ` ${openJobs} jobs are under way.`,
  ];
  if (unknown.length > 0)
    parts.push(
      `On nodes, and not in the database (made after the backup). They stay, running, until you let them go: ` +
        '`rhyzome sweep remove NODE KIND ID`, or all but disks and snapshots by `rhyzome sweep approve NODE --all`. ' +
        'They cannot be taken over; what a disk holds lies in its file on the node (docs/nodes.md):\n' +
        shown(['NODE', 'KIND', 'ID', 'TENANT'], unknown, (o) => [o.node, o.kind, o.id, o.tenant]),
    );
  const remade = missing.filter(({ isContent }) => !isContent);
  const lost = missing.filter(({ isContent }) => isContent);
  const headings = ['NODE', 'KIND', 'ID', 'TENANT', 'NAME'];
  const cells = (m: RestoreReport['missing'][number]) => [m.node, m.kind, m.id, m.tenant, m.name];
  if (lost.length > 0)
    parts.push(
      'In the database, and their content not on the nodes (deleted after the backup). `rhyzome restore finish` marks them ' +
        `as failed, with machines that were lost with them; their tenants delete them:\n${shown(headings, lost, cells)}`,
    );
  if (remade.length > 0)
    parts.push(
      'In the database, and not on the nodes (deleted after the backup). `rhyzome restore finish` makes them again, as far as ' +
        `their disks are there:\n${shown(headings, remade, cells)}`,
    );
  if (different.length > 0)
    parts.push(
      'Other than in the database. Machines get the power state of the database; a disk cannot shrink: its tenant resizes it ' +
        'to what it is on the node:\n' +
        shown(['NODE', 'KIND', 'ID', 'TENANT', 'NAME', 'WHAT', 'ON THE NODE', 'IN THE DATABASE'], different, (d) => [
          d.node,
          d.kind,
          d.id,
          d.tenant,
          d.name,
          d.what,
          d.onNode,
          d.inDatabase,
        ]),
    );
  if (unknown.length + missing.length + different.length === 0)
    parts.push(silent.length > 0 ? 'Of those that have told, all agree.' : 'Nodes and database agree.');
  parts.push(
    revocations.length > 0
      ? `Certificates that were revoked after the backup; nodes knew, and they are revoked again:\n${shown(['WHAT', 'REVOKED AT', 'FROM'], revocations, (r) => [r.what, r.revokedAt, r.from])}`
      : 'No node knows of certificates that were revoked after the backup. If you know of any, revoke them again: `rhyzome pki revoke`.',
  );
  if (!restoration.finishedAt) parts.push('Nodes are told nothing until `rhyzome restore finish`.');
  return parts.join('\n\n');
}

function shown<T>(headings: string[], rows: readonly T[], cells: (row: T) => unknown[]): string {
  const more = rows.length > MOST_SHOWN ? `\nand ${rows.length - MOST_SHOWN} more (--json names them)` : '';
  return table(headings, rows.slice(0, MOST_SHOWN).map(cells)) + more;
}

function finish(context: Context): Command {
  return new Command('finish')
    .description('end the comparison: nodes are told again what is desired')
    .option('--force', 'also where nodes have not told what they have')
    .action(async ({ force = false }: { force?: boolean }) => {
      const { finishRestoration } = await import('../backup/restoration.js');
      const done = await context.change(async ({ tx, audit }) => {
        const finished = await finishRestoration(tx, administrator(), force);
        const details = { force, failed: finished.failed.length, purged: finished.purged.length };
        await audit({ tenantId: SYSTEM_TENANT, action: 'db.restore_finish', details });
        return finished;
      });
      const failed =
        done.failed.length > 0
          ? `\n${done.failed.length} have no content on their nodes and are marked as failed:\n` +
            shown(['KIND', 'ID', 'TENANT'], done.failed, (f) => [f.kind, f.id, f.tenant])
          : '';
      context.show(
        done,
        `Finished: nodes are told what is desired.${failed}\n` +
          'The sweep only reports until `rhyzome sweep settings --remove`.',
      );
    });
}
