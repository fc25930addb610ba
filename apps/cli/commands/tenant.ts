/** `rhyzome tenant`: customers, the issuers of their tokens, and whether they may do anything. */
import { Command, InvalidArgumentError } from 'commander';
import type { Tenant, TenantIssuer } from '#libs/tenants';
import type { Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { collect, pair } from '../option-values.js';
import { fields, table } from '../table.js';
import { domainCommand } from './tenant-domain.js';

interface TenantFlags {
  displayName?: string;
  billingKey?: string;
  property?: Record<string, string>;
}

export function tenantCommand(context: Context): Command {
  return new Command('tenant')
    .description('tenants: one customer organization each')
    .addCommand(create(context))
    .addCommand(list(context))
    .addCommand(show(context))
    .addCommand(update(context))
    .addCommand(remove(context))
    .addCommand(domainCommand(context));
}

/** `--issuer URL [--audience A] [--jwks-uri U]`, repeatable: the latter two belong to the issuer before them. */
function issuerOptions(command: Command): () => TenantIssuer[] | undefined {
  const issuers: TenantIssuer[] = [];
  const last = (option: string): TenantIssuer => {
    const issuer = issuers.at(-1);
    if (!issuer) throw new InvalidArgumentError(`${option} belongs to the --issuer before it.`);
    return issuer;
  };
  command
    .option('--issuer <url>', 'issuer of the tenant’s tokens, exactly as in `iss` (may be repeated)', (issuer) => {
      issuers.push({ issuer, audience: null, jwksUri: null });
      return issuer;
    })
    .option('--audience <text>', 'what its tokens must name (default: the audience in the settings)', (text) => {
      last('--audience').audience = text;
      return text;
    })
    .option('--jwks-uri <url>', 'where its keys are (default: found by discovery)', (url) => {
      last('--jwks-uri').jwksUri = url;
      return url;
    });
  return () => (issuers.length > 0 ? issuers : undefined);
}

function commonOptions(command: Command): Command {
  return command
    .option('--display-name <text>', 'what people call it')
    .option('--billing-key <key>', 'its key in the billing system')
    .option('--property <k=v>', 'a further property (may be repeated)', pair);
}

function create(context: Context): Command {
  const command = commonOptions(new Command('create'))
    .description('make a tenant')
    .argument('<id>', 'lower-case letters and digits; never changes');
  const issuers = issuerOptions(command);
  return command.action(async (id: string, flags: TenantFlags) => {
    const { createTenant } = await import('#libs/tenants');
    const { displayName = id, billingKey, property: properties } = flags;
    const tenant = await context.change(async ({ tx, audit }) => {
      const made = await createTenant(tx, { id, displayName, billingKey, properties, issuers: issuers() });
      await audit({ tenantId: id, action: 'tenant.create', details: contentOf(made) });
      return made;
    });
    context.show(tenant, `Made the tenant ${id}.\n${words(tenant)}`);
  });
}

function list(context: Context): Command {
  return new Command('list').description('all tenants').action(async () => {
    const { listTenants } = await import('#libs/tenants');
    const tenants = await context.read(listTenants);
    const rows = tenants.map((t) => [t.id, t.displayName, t.state, t.billingKey, t.issuers.map((i) => i.issuer)]);
    context.show(tenants, table(['ID', 'NAME', 'STATE', 'BILLING KEY', 'ISSUERS'], rows));
  });
}

function show(context: Context): Command {
  return new Command('show')
    .description('one tenant')
    .argument('<id>')
    .action(async (id: string) => {
      const { findTenant } = await import('#libs/tenants');
      const tenant = await context.read((tx) => findTenant(tx, id));
      context.show(tenant, words(tenant));
    });
}

interface UpdateFlags extends TenantFlags {
  clearBillingKey?: boolean;
  unsetProperty?: string[];
  clearIssuers?: boolean;
  suspend?: boolean;
  activate?: boolean;
}

function update(context: Context): Command {
  const command = commonOptions(new Command('update'))
    .description('change a tenant; what is not named stays')
    .argument('<id>')
    .option('--clear-billing-key', 'take its billing key away')
    .option('--unset-property <key>', 'take a property away (may be repeated)', collect)
    .option('--clear-issuers', 'take all issuers away: nobody can log in')
    .option('--suspend', 'refuse its tokens from now on; what runs runs on')
    .option('--activate', 'end a suspension')
    .addHelpText('after', '\n--issuer sets the issuers from now on: name all that shall remain.');
  const issuers = issuerOptions(command);
  return command.action(async (id: string, flags: UpdateFlags) => {
    const change = changeOf(flags, issuers());
    const { updateTenant } = await import('#libs/tenants');
    const tenant = await context.change(async ({ tx, audit }) => {
      const changed = await updateTenant(tx, id, change);
      await audit({ tenantId: id, action: 'tenant.update', details: { ...change } });
      return changed;
    });
    context.show(tenant, `Changed the tenant ${id}.\n${words(tenant)}`);
  });
}

function changeOf(flags: UpdateFlags, issuers: TenantIssuer[] | undefined) {
  const either = (a: unknown, b: unknown, names: string) => {
    if (a !== undefined && b !== undefined)
      throw new CliError(exitStatus.usage, 'usage', `${names} contradict each other.`);
  };
  either(flags.suspend, flags.activate, '--suspend and --activate');
  either(flags.billingKey, flags.clearBillingKey, '--billing-key and --clear-billing-key');
  either(issuers, flags.clearIssuers, '--issuer and --clear-issuers');
  const unset = Object.fromEntries((flags.unsetProperty ?? []).map((key) => [key, null]));
  const properties = flags.property || flags.unsetProperty ? { ...unset, ...flags.property } : undefined;
  const change = {
    ...(flags.displayName !== undefined && { displayName: flags.displayName }),
    ...(flags.billingKey !== undefined && { billingKey: flags.billingKey }),
    ...(flags.clearBillingKey && { billingKey: null }),
    ...(properties && { properties }),
    ...(flags.suspend && { state: 'suspended' as const }),
    ...(flags.activate && { state: 'active' as const }),
    ...(issuers && { issuers }),
    ...(flags.clearIssuers && { issuers: [] }),
  };
  if (Object.keys(change).length === 0)
    throw new CliError(
      exitStatus.usage,
      'usage',
      'Nothing to change was named. `tenant update --help` lists what can be.',
    );
  return change;
}

function remove(context: Context): Command {
  return new Command('delete')
    .description('delete a tenant that has no resources')
    .argument('<id>')
    .action(async (id: string) => {
      const { deleteTenant, findTenant } = await import('#libs/tenants');
      const tenant = await context.change(async ({ tx, audit }) => {
        const last = await findTenant(tx, id);
        await deleteTenant(tx, id);
        // Under `system`, where somebody can still read it.
        await audit({ tenantId: 'system', action: 'tenant.delete', details: { id, ...contentOf(last) } });
        return last;
      });
      context.show(tenant, `Deleted the tenant ${id}. Its audit rows stay.`);
    });
}

function contentOf({ displayName, billingKey, properties, issuers }: Tenant): Record<string, unknown> {
  return { displayName, billingKey, properties, issuers };
}

function words(tenant: Tenant): string {
  return fields({
    id: tenant.id,
    name: tenant.displayName,
    state: tenant.state,
    'billing key': tenant.billingKey,
    properties: tenant.properties,
    issuers: tenant.issuers.map(issuerWords),
    created: tenant.createdAt,
    updated: tenant.updatedAt,
  });
}

function issuerWords({ issuer, audience, jwksUri }: TenantIssuer): string {
  const further = [audience && `audience ${audience}`, jwksUri && `keys ${jwksUri}`].filter(Boolean);
  return further.length > 0 ? `${issuer} (${further.join(', ')})` : issuer;
}
