/** `rhyzome db`: the schema and the database itself, as the role owner. */
import { Command } from 'commander';
import type { ConnectionOptions } from '#libs/config';
import type { Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { migrationsFolder } from '../installed.js';
import { table } from '../table.js';

interface FolderFlag {
  migrations?: string;
}

export function dbCommand(context: Context): Command {
  return new Command('db')
    .description('the database: its schema, and the whole of it')
    .addCommand(migrateCommand(context))
    .addCommand(statusCommand(context))
    .addCommand(resetCommand(context));
}

const folderOption = ['--migrations <dir>', 'folder of the migrations (default: those of this version)'] as const;

function migrateCommand(context: Context): Command {
  return new Command('migrate')
    .description('bring the schema up to date; safe to run anywhere, any time')
    .option(...folderOption)
    .action(async (flags: FolderFlag) => {
      const connection = await context.connection('dbOwner');
      const applied = await migrateOn(context, connection, flags.migrations);
      const text = applied.length > 0 ? `Applied ${applied.join(', ')}.` : 'The schema is up to date.';
      context.show({ applied }, text);
    });
}

async function migrateOn(context: Context, connection: ConnectionOptions, folder?: string): Promise<string[]> {
  const { migrate } = await import('#libs/db');
  return context.reach(connection, () => migrate(connection, folder ?? migrationsFolder()));
}

function statusCommand(context: Context): Command {
  return new Command('status')
    .description('what is applied and what is not; ends with 1 unless all is')
    .option(...folderOption)
    .action(async (flags: FolderFlag) => {
      const connection = await context.connection('dbOwner');
      const { migrationStatus } = await import('#libs/db');
      const { describeConnection } = await import('#libs/config');
      const migrations = await context.reach(connection, () =>
        migrationStatus(connection, flags.migrations ?? migrationsFolder()),
      );
      const isCurrent = migrations.every(({ state }) => state === 'applied');
      const { host, port, database } = connection;
      const rows = migrations.map(({ name, state, appliedAt }) => [name, state, appliedAt]);
      context.show(
        { host, port, database, isCurrent, migrations },
        `The ${describeConnection(connection)}:\n${table(['MIGRATION', 'STATE', 'APPLIED'], rows)}`,
      );
      if (!isCurrent) context.status = exitStatus.refused;
    });
}

function resetCommand(context: Context): Command {
  return new Command('reset')
    .description('destroy the database with everything in it and make it anew; also makes a missing one')
    .option('--force', 'do not ask')
    .action(async ({ force }: { force?: boolean }) => {
      const connection = await context.connection('dbOwner');
      const { inspectDatabase, resetDatabase } = await import('../reset-database.js');
      const { host, port, database } = connection;
      const before = await context.reach(connection, () => inspectDatabase(connection));
      if (before.exists && !force) await confirm(context, connection, before);
      const way = await context.reach(connection, () => resetDatabase(connection));
      const applied = await migrateOn(context, connection);
      const how = {
        created: 'Made the database',
        recreated: 'Destroyed and made anew the database',
        emptied: 'Emptied (its login may not create databases) the database',
      }[way];
      await auditReset(context, way, before);
      context.show(
        { host, port, database, way, destroyed: before, applied },
        `${how} ${database} at ${host}, port ${port}; applied ${applied.length} migrations.`,
      );
    });
}

type Content = Awaited<ReturnType<typeof import('../reset-database.js')['inspectDatabase']>>;

async function confirm(context: Context, connection: ConnectionOptions, content: Content): Promise<void> {
  const { database, host, port } = connection;
  const holds =
    content.tenants === null
      ? 'Rhyzome has not been set up in it; whatever else is there goes too.'
      : `It holds ${content.tenants} tenants and ${content.resources} resources.`;
  const question =
    `This destroys the database ${database} at ${host}, port ${port}, with everything in it. ${holds}\n` +
    'What nodes made for these resources stays on the nodes. Type the name of the database to go on: ';
  if ((await context.ask(question)).trim() !== database)
    throw new CliError(
      exitStatus.refused,
      'not_confirmed',
      'Nothing was changed: that was not the name of the database.',
    );
}

/** The first row of the new database: who destroyed the old one. */
async function auditReset(context: Context, way: string, destroyed: Content): Promise<void> {
  await context.change(({ audit }) =>
    audit({ tenantId: 'system', action: 'db.reset', details: { way, destroyed: { ...destroyed } } }),
  );
}
