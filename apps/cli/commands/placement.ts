/** `rhyzome placement`: how much of nodes may be promised, and by which of their labels tenants may choose. */
import { Command, InvalidArgumentError } from 'commander';
import { sql } from 'kysely';
import { SYSTEM_TENANT, tagKeyPattern } from '#libs/core';
import type { Tx } from '#libs/db';
import type { Context } from '../context.js';
import { commaList, factor, limits, wholeNumber } from '../option-values.js';
import { fields } from '../table.js';

export function placementCommand(context: Context): Command {
  return new Command('placement')
    .description('what may be promised of nodes, and by which labels tenants choose them')
    .addCommand(show(context))
    .addCommand(set(context));
}

interface Rules {
  vcpuOvercommit: number;
  memoryOvercommit: number;
  diskOvercommit: number;
  memoryReserveMiB: number;
  labels: string[];
}

function show(context: Context): Command {
  return new Command('show').description('the rules of the installation').action(async () => {
    present(context, await context.read(read));
  });
}

function set(context: Context): Command {
  return new Command('set')
    .description('changes rules; others stay. Nodes can have factors of their own: `rhyzome node set`')
    .option('--vcpu-overcommit <factor>', 'so often processors are promised', factor(limits.vcpus))
    .option('--memory-overcommit <factor>', 'so often memory is promised', factor(limits.memory))
    .option('--disk-overcommit <factor>', 'so often disk space is promised', factor(limits.disk))
    .option('--memory-reserve <MiB>', 'so much of each node’s memory never is', wholeNumber(0, limits.reserveMiB))
    .option('--labels <keys>', 'labels of nodes by which tenants may choose, e.g. zone,gpu; “none”: by none', labelKeys)
    .action(async (flags: Flags) => {
      const { memoryReserve, ...others } = flags;
      const wanted: Partial<Rules> = {
        ...others,
        ...(memoryReserve !== undefined && { memoryReserveMiB: memoryReserve }),
      };
      if (Object.keys(wanted).length === 0) throw new InvalidArgumentError('Name at least one option.');
      const rules = await context.change(async ({ tx, audit }) => {
        await write(tx, wanted);
        await audit({ tenantId: SYSTEM_TENANT, action: 'placement.set', details: { ...wanted } });
        return read(tx);
      });
      present(context, rules);
    });
}

interface Flags extends Partial<Omit<Rules, 'memoryReserveMiB'>> {
  memoryReserve?: number;
}

const MAX_LABELS = 64;

function labelKeys(text: string): string[] {
  if (text === 'none') return [];
  const keys = [...new Set(commaList(text))];
  if (keys.length > MAX_LABELS || keys.some((key) => !tagKeyPattern.test(key))) {
    throw new InvalidArgumentError(`It must be up to ${MAX_LABELS} keys of labels like zone,gpu.`);
  }
  return keys;
}

async function write(tx: Tx, rules: Partial<Rules>): Promise<void> {
  await tx
    .updateTable('installation')
    .set({
      vcpu_overcommit: rules.vcpuOvercommit,
      memory_overcommit: rules.memoryOvercommit,
      disk_overcommit: rules.diskOvercommit,
      memory_reserve_mib: rules.memoryReserveMiB,
      placement_labels: rules.labels,
    })
    .execute();
}

async function read(tx: Tx): Promise<Rules> {
  const result = await sql<Rules>`
    select vcpu_overcommit::float8 as "vcpuOvercommit", memory_overcommit::float8 as "memoryOvercommit",
      disk_overcommit::float8 as "diskOvercommit", memory_reserve_mib as "memoryReserveMiB", placement_labels as labels
    from installation`.execute(tx);
  return result.rows[0]!;
}

function present(context: Context, rules: Rules): void {
  const text = fields({
    'vcpu overcommit': rules.vcpuOvercommit,
    'memory overcommit': rules.memoryOvercommit,
    'disk overcommit': rules.diskOvercommit,
    'memory reserve': `${rules.memoryReserveMiB} MiB`,
    labels: rules.labels,
  });
  context.show(rules, text);
}
