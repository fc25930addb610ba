/** `rhyzome backup`: a copy of the control plane's database in one file, taken while servers run. */
import { existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { Command } from 'commander';
import { SYSTEM_TENANT } from '#libs/core';
import type { Verified } from '../backup/backup-file.js';
import type { Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';

export function backupCommand(context: Context): Command {
  return new Command('backup')
    .description('copy the database into one file, while servers run; the content of images is not in it')
    .addCommand(take(context), { isDefault: true })
    .addCommand(verify(context));
}

function take(context: Context): Command {
  return new Command('create')
    .description('take a backup; the file holds secrets and is for its owner only')
    .argument('<file>')
    .option('--force', 'replace a file that is there')
    .action(async (file: string, { force }: { force?: boolean }) => {
      if (existsSync(file) && !force)
        throw new CliError(exitStatus.refused, 'already_exists', `${file} exists already; --force replaces it.`);
      const folder = dirname(resolve(file));
      if (!existsSync(folder)) throw new CliError(exitStatus.refused, 'no_folder', `There is no folder ${folder}.`);
      const connection = await context.connection('dbOwner');
      const { takeBackup } = await import('../backup/take-backup.js');
      const begun = Date.now();
      const taken = await context.reach(connection, () => takeBackup(connection, file));
      const { size } = await stat(file);
      const details = { backup: taken.header.id, takenAt: taken.header.takenAt, rows: rowsOf(taken), bytes: size };
      await context.change(({ audit }) => audit({ tenantId: SYSTEM_TENANT, action: 'db.backup', details }));
      const seconds = Math.round((Date.now() - begun) / 100) / 10;
      context.show(
        { file, seconds, ...details },
        `Wrote ${rowsOf(taken)} rows of ${Object.keys(taken.tables).length} tables to ${file}: ${size} bytes, in ${seconds} s.`,
      );
    });
}

function verify(context: Context): Command {
  return new Command('verify')
    .description('read a backup to its end and check that it is whole')
    .argument('<file>')
    .action(async (file: string) => {
      const { verifyBackup } = await import('../backup/backup-file.js');
      refuseMissing(file);
      const verified = await verifyBackup(file);
      const { header, tables } = verified;
      context.show(
        { ...header, rows: rowsOf(verified), tables },
        `Whole: ${rowsOf(verified)} rows of ${Object.keys(tables).length} tables of installation ${header.installationId}, ` +
          `as of ${header.takenAt}, by Rhyzome ${header.version} (${header.migrations.at(-1)?.name}).`,
      );
    });
}

/** Throws CliError `not_found`. */
export function refuseMissing(file: string): void {
  if (!existsSync(file)) throw new CliError(exitStatus.notFound, 'not_found', `There is no file ${file}.`);
}

export function rowsOf({ tables }: Pick<Verified, 'tables'>): number {
  return Object.values(tables).reduce((sum, { rows }) => sum + rows, 0);
}
