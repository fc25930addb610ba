/** `rhyzome pool`: the pools that tenants take public addresses from. */
import { Command } from 'commander';
import type { Pool } from '#libs/kinds/publicaddress';
import type { Context } from '../context.js';
import { commaList } from '../option-values.js';
import { fields, table } from '../table.js';

export function poolCommand(context: Context): Command {
  return new Command('pool')
    .description('the pools that tenants take public addresses from')
    .addCommand(create(context))
    .addCommand(list(context))
    .addCommand(remove(context));
}

function create(context: Context): Command {
  return new Command('create')
    .description('give a pool; its addresses must be routed to the nodes')
    .argument('<name>', 'what tenants call it; the first by name is their default')
    .argument(
      '<ranges>',
      'e.g. 203.0.113.0/28,203.0.113.32-203.0.113.40; a CIDR counts with all its addresses',
      commaList,
    )
    .option('--description <text>')
    .action(async (name: string, ranges: string[], { description }: { description?: string }) => {
      const { createPool, parseRanges } = await import('#libs/kinds/publicaddress');
      // Before the database is asked for.
      parseRanges(ranges);
      const pool = await context.change(async ({ tx, audit }) => {
        const made = await createPool(tx, { name, ranges, ...(description !== undefined && { description }) });
        await audit({ ...auditOf('create', made), details: { ranges: made.ranges } });
        return made;
      });
      context.show(pool, `Created the pool ${name}.\n${words(pool)}`);
    });
}

function list(context: Context): Command {
  return new Command('list').description('all pools, and how many of their addresses are taken').action(async () => {
    const { listPools } = await import('#libs/kinds/publicaddress');
    const pools = await context.read(listPools);
    const rows = pools.map((pool) => [pool.name, use(pool), pool.ranges, pool.description]);
    context.show(pools, table(['NAME', 'TAKEN', 'RANGES', 'DESCRIPTION'], rows));
  });
}

function remove(context: Context): Command {
  return new Command('delete')
    .description('take a pool away of which no address is in use')
    .argument('<name>')
    .action(async (name: string) => {
      const { deletePool } = await import('#libs/kinds/publicaddress');
      const pool = await context.change(async ({ tx, audit }) => {
        const gone = await deletePool(tx, name);
        await audit(auditOf('delete', gone));
        return gone;
      });
      context.show(pool, `Deleted the pool ${name}.`);
    });
}

function auditOf(verb: string, { name }: Pool) {
  return { tenantId: 'system', action: `pool.${verb}`, kind: 'pool', resourceName: name };
}

function use({ addresses }: Pool): string {
  return `${addresses.used}/${addresses.total}`;
}

function words(pool: Pool): string {
  return fields({
    name: pool.name,
    description: pool.description,
    ranges: pool.ranges,
    taken: use(pool),
    created: pool.createdAt,
  });
}
