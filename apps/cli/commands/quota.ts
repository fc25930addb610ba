/** `rhyzome quota`: how much tenants may have, and what new ones begin with (tenant `*`). */
import { Command, InvalidArgumentError } from 'commander';
import type { Quota } from '#libs/tenants';
import type { Context } from '../context.js';
import { table } from '../table.js';

const DEFAULTS = '*';

export function quotaCommand(context: Context): Command {
  return new Command('quota')
    .description('how much a tenant may have')
    .addCommand(set(context))
    .addCommand(setDefault(context))
    .addCommand(unset(context))
    .addCommand(list(context));
}

/** `instances=10`, repeatable. */
function limit(text: string, before: Record<string, number> = {}): Record<string, number> {
  const [name = '', value = '', ...rest] = text.split('=');
  if (name === '' || !/^\d{1,15}$/.test(value) || rest.length > 0)
    throw new InvalidArgumentError('It must be of the form NAME=MAX with a whole number.');
  if (Object.hasOwn(before, name)) throw new InvalidArgumentError(`The quota ${name} stands twice.`);
  return { ...before, [name]: Number(value) };
}

const limitsHelp = 'e.g. instances=10 vcpus=32 memoryMiB=65536; an unknown name is answered with those that there are';

function set(context: Context): Command {
  return new Command('set')
    .description('set limits of a tenant; others stay. Below what is used: nothing more until enough is given back')
    .argument('<tenant>', "its id; '*' for what new tenants begin with")
    .argument('<name=max...>', limitsHelp, limit)
    .action((tenant: string, limits: Record<string, number>) => change(context, tenant, limits));
}

function setDefault(context: Context): Command {
  return new Command('default')
    .description("what tenants get that are made from now on; the same as set '*'")
    .argument('<name=max...>', limitsHelp, limit)
    .action((limits: Record<string, number>) => change(context, DEFAULTS, limits));
}

async function change(context: Context, tenant: string, limits: Record<string, number>): Promise<void> {
  const { listQuotas, setQuotas } = await import('#libs/tenants');
  const quotas = await context.change(async ({ tx, audit }) => {
    await setQuotas(tx, tenant, limits);
    await audit({ tenantId: auditTenant(tenant), action: 'quota.set', details: { tenant, ...limits } });
    return listQuotas(tx, tenant);
  });
  show(context, quotas);
}

function unset(context: Context): Command {
  return new Command('unset')
    .description('take limits away')
    .argument('<tenant>', "its id; '*' for what new tenants begin with")
    .argument('<name...>')
    .action(async (tenant: string, names: string[]) => {
      const { listQuotas, unsetQuotas } = await import('#libs/tenants');
      const quotas = await context.change(async ({ tx, audit }) => {
        await unsetQuotas(tx, tenant, names);
        await audit({ tenantId: auditTenant(tenant), action: 'quota.unset', details: { tenant, names } });
        return listQuotas(tx, tenant);
      });
      show(context, quotas);
    });
}

function list(context: Context): Command {
  return new Command('list')
    .description('limits and what is used of them')
    .argument('[tenant]', "its id; '*' for what new tenants begin with; without it, all")
    .action(async (tenant: string | undefined) => {
      const { listQuotas } = await import('#libs/tenants');
      show(context, await context.read((tx) => listQuotas(tx, tenant)));
    });
}

/** Defaults belong to nobody; `system` is where administrators read them. */
function auditTenant(tenant: string): string {
  return tenant === DEFAULTS ? 'system' : tenant;
}

function show(context: Context, quotas: readonly Quota[]): void {
  const rows = quotas.map(({ tenantId, name, max, used }) => [
    tenantId,
    name,
    max,
    used,
    used === null ? null : Math.max(0, max - used),
  ]);
  context.show(quotas, table(['TENANT', 'QUOTA', 'MAX', 'USED', 'LEFT'], rows));
}
