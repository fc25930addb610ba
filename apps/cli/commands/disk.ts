/** `rhyzome disk`: for how long deleted disks can be had back, and where disks are. */
import { Command, InvalidArgumentError } from 'commander';
import { sql } from 'kysely';
import { SYSTEM_TENANT } from '#libs/core';
import type { Tx } from '#libs/db';
import type { Context } from '../context.js';
import { moved } from '../moving.js';
import { type OfTenant, ofTenant } from '../option-values.js';

const MAX_HOURS = 24 * 366;

export function diskCommand(context: Context): Command {
  return new Command('disk')
    .description('disks of all tenants')
    .addCommand(retention(context))
    .addCommand(migrate(context));
}

function hours(text: string): number {
  const value = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > MAX_HOURS) throw new InvalidArgumentError(`It must be 1 to ${MAX_HOURS} hours.`);
  return value;
}

interface Flags {
  hours?: number;
  off?: boolean;
}

function migrate(context: Context): Command {
  return new Command('migrate')
    .description('move a disk that no machine has to another node, with its snapshots')
    .argument('<tenant/name>', 'whose it is, and its name or id', ofTenant)
    .option('--to <node>', 'to this node (default: one with room)')
    .option('--no-wait', 'do not wait for the end')
    .action((whose: OfTenant, { to, wait }: { to?: string; wait: boolean }) =>
      moved(context, 'disk', whose, to === undefined ? {} : { node: to }, wait),
    );
}

function retention(context: Context): Command {
  return new Command('retention')
    .description('for how long deleted disks are kept; without an option, shows it. Counts from the next deletion on')
    .option('--hours <n>', 'so many hours', hours)
    .option('--off', 'not at all: what is deleted is gone')
    .action(async (flags: Flags) => {
      if (flags.hours !== undefined && flags.off) throw new InvalidArgumentError('Name --hours or --off.');
      const isChange = flags.hours !== undefined || flags.off === true;
      const kept = isChange
        ? await context.change(async ({ tx, audit }) => {
            await write(tx, flags.hours);
            const details = { hours: flags.hours ?? null };
            await audit({ tenantId: SYSTEM_TENANT, action: 'disk.retention', details });
            return read(tx);
          })
        : await context.read(read);
      context.show(
        { hours: kept },
        kept === null ? 'Deleted disks are not kept.' : `Deleted disks are kept for ${kept} hours.`,
      );
    });
}

async function write(tx: Tx, value: number | undefined): Promise<void> {
  const kept = value === undefined ? sql`null` : sql`make_interval(hours => ${value})`;
  await sql`update installation set deleted_disks_kept = ${kept}`.execute(tx);
}

/** Hours; null: not at all. */
async function read(tx: Tx): Promise<number | null> {
  const result = await sql<{ hours: number | null }>`
    select (extract(epoch from deleted_disks_kept) / 3600)::float8 as hours from installation`.execute(tx);
  return result.rows[0]?.hours ?? null;
}
