/** `rhyzome tenant`: customers, the issuers of their tokens, and whether they may do anything. */
import { isDeepStrictEqual } from 'node:util';
import { Command, Option } from 'commander';
import type { Database } from '#libs/db';
import type { NewTenant, Tenant, TenantIssuer } from '#libs/tenants';
import type { Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { collect, pair } from '../option-values.js';
import { fields, table } from '../table.js';
import { TenantLogin, type WaitFlags } from '../tenant-login.js';
import { domainCommand } from './tenant-domain.js';
import { adminCommand, askOnce, moveCommand, passwordWords, resumeCommand, suspendCommand } from './tenant-login.js';
import { issuerOptions, issuerWords, waitOptions } from './tenant-options.js';

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
    .addCommand(suspendCommand(context))
    .addCommand(resumeCommand(context))
    .addCommand(adminCommand(context))
    .addCommand(moveCommand(context))
    .addCommand(remove(context))
    .addCommand(domainCommand(context));
}

function commonOptions(command: Command): Command {
  return command
    .option('--display-name <text>', 'what people call it')
    .option('--billing-key <key>', 'its key in the billing system')
    .option('--property <k=v>', 'a further property (may be repeated)', pair);
}

interface CreateFlags extends TenantFlags, WaitFlags {
  mode?: 'realm' | 'organization';
  admin?: string;
  adminEmail?: string;
}

function create(context: Context): Command {
  const command = waitOptions(commonOptions(new Command('create')))
    .description('make a tenant with a realm for its people, or with issuers of its own; the same again goes on')
    .argument('<id>', 'lower-case letters and digits; never changes')
    .addOption(new Option('--mode <mode>', 'how its people log in (default: as in the settings)').choices(modes))
    .option('--admin <name>', 'make this first administrator, and print a one-time password')
    .option('--admin-email <address>', 'where the administrator is reached');
  const issuers = issuerOptions(command);
  return command.action(async (id: string, flags: CreateFlags) => {
    const mode = await modeOf(context, flags, issuers());
    const { displayName = id, billingKey, property: properties } = flags;
    const content = { displayName, billingKey, properties, issuers: issuers() };
    const { tenant, username, password } = await context.database(async (db) => {
      await makeTenant(context, db, id, content, mode !== undefined);
      const login = await TenantLogin.open(context, db, id, flags);
      if (mode) await login.makeRealm(mode);
      const made = flags.admin === undefined ? undefined : await login.makeAdmin(flags.admin, flags.adminEmail);
      const { findTenant } = await import('#libs/tenants');
      const username = flags.admin && (await login.loginName(flags.admin));
      return { username, password: made, tenant: await db.operatorTransaction((tx) => findTenant(tx, id)) };
    });
    const first = flags.admin && {
      admin: { name: flags.admin, username, ...(password && { oneTimePassword: password }) },
    };
    const said = flags.admin ? `\n${adminWords(id, flags.admin, username!, password)}` : '';
    context.show({ ...tenant, ...first }, `Made the tenant ${id}.\n${words(tenant)}${said}`);
  });
}

const modes = ['realm', 'organization'] as const;

/** Undefined: nothing is kept at an identity provider. */
async function modeOf(context: Context, flags: CreateFlags, issuers: TenantIssuer[] | undefined) {
  const refuse = (message: string) => new CliError(exitStatus.usage, 'usage', message);
  if (issuers && flags.mode) throw refuse('--issuer and --mode contradict each other.');
  const { settings } = await context.settings();
  const mode = issuers ? undefined : (flags.mode ?? settings.keycloak?.mode);
  if (flags.mode && !settings.keycloak) throw refuse('--mode needs “keycloak” in the settings.');
  if (flags.admin !== undefined && !mode) throw refuse('--admin needs a realm that Rhyzome keeps.');
  if (flags.admin !== undefined && !flags.wait) throw refuse('--admin needs the realm to be there, and --no-wait.');
  if (flags.adminEmail !== undefined && flags.admin === undefined) throw refuse('--admin-email belongs to --admin.');
  return mode;
}

/** With a realm it may be there already, if it is the same: then an earlier command is gone on with. */
async function makeTenant(
  context: Context,
  db: Database,
  id: string,
  content: Omit<NewTenant, 'id'>,
  mayBeThere: boolean,
): Promise<void> {
  const { createTenant, findTenant } = await import('#libs/tenants');
  try {
    await context.changeOn(db, async ({ tx, audit }) => {
      const made = await createTenant(tx, { id, ...content });
      await audit({ tenantId: id, action: 'tenant.create', details: contentOf(made) });
    });
  } catch (error) {
    const isThere = error instanceof Error && (error as { code?: unknown }).code === 'already_exists';
    if (!mayBeThere || !isThere) throw error;
    const there = await db.operatorTransaction((tx) => findTenant(tx, id));
    const isSame =
      there.displayName === content.displayName &&
      there.billingKey === (content.billingKey ?? null) &&
      isDeepStrictEqual(there.properties, content.properties ?? {}) &&
      there.issuers.every(({ managed }) => managed);
    if (!isSame) throw error;
  }
}

function adminWords(id: string, name: string, username: string, password: string | null | undefined): string {
  if (password) return passwordWords(username, password);
  return `The user ${name} was there already; \`rhyzome tenant admin ${id} ${name}\` gives a new one-time password.`;
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

interface UpdateFlags extends TenantFlags, WaitFlags {
  clearBillingKey?: boolean;
  unsetProperty?: string[];
  clearIssuers?: boolean;
  suspend?: boolean;
  activate?: boolean;
  mayMigrate?: boolean;
}

function update(context: Context): Command {
  const command = waitOptions(commonOptions(new Command('update')))
    .description('change a tenant; what is not named stays')
    .argument('<id>')
    .option('--clear-billing-key', 'take its billing key away')
    .option('--unset-property <key>', 'take a property away (may be repeated)', collect)
    .option('--clear-issuers', 'take all issuers away: nobody can log in')
    .option('--suspend', 'refuse its tokens from now on; what runs runs on')
    .option('--activate', 'end a suspension')
    .option('--may-migrate', 'let its people move its machines from node to node')
    .option('--no-may-migrate', 'let only administrators do so')
    .addHelpText('after', '\n--issuer sets the issuers from now on: name all that shall remain.');
  const issuers = issuerOptions(command);
  return command.action(async (id: string, flags: UpdateFlags) => {
    const change = changeOf(flags, issuers());
    const { updateTenant } = await import('#libs/tenants');
    const tenant = await context.database(async (db) => {
      const changed = await context.changeOn(db, async ({ tx, audit }) => {
        const after = await updateTenant(tx, id, change);
        await audit({ tenantId: id, action: 'tenant.update', details: { ...change } });
        return after;
      });
      const isSeen = change.state !== undefined || change.displayName !== undefined;
      if (isSeen) await (await TenantLogin.open(context, db, id, flags)).changeRealm({});
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
    ...(flags.mayMigrate !== undefined && { mayMigrate: flags.mayMigrate }),
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
  return waitOptions(new Command('delete'))
    .description('delete a tenant that has no resources, with its users and its realm')
    .argument('<id>')
    .option('--force', 'remove a realm with all that is in it without asking')
    .action(async (id: string, flags: WaitFlags & { force?: boolean }) => {
      const { deleteTenant, findTenant, refuseTenantInUse, updateTenant } = await import('#libs/tenants');
      const tenant = await context.database(async (db) => {
        const last = await db.operatorTransaction(async (tx) => {
          await refuseTenantInUse(tx, id, ['realm']);
          return findTenant(tx, id);
        });
        const login = await TenantLogin.open(context, db, id, flags);
        if (await login.realm()) {
          await askOnce(context, flags.force, `This removes the realm of ${id} with all users and programs in it.`);
          // Nobody makes anything any more, and what is being made is found by the deletion.
          await context.changeOn(db, async ({ tx, audit }) => {
            await updateTenant(tx, id, { state: 'suspended' });
            await audit({ tenantId: id, action: 'tenant.suspend' });
          });
          await login.removeRealm();
          if (!flags.wait) return undefined;
        }
        await context.changeOn(db, async ({ tx, audit }) => {
          await deleteTenant(tx, id);
          // Under `system`, where somebody can still read it.
          await audit({ tenantId: 'system', action: 'tenant.delete', details: { id, ...contentOf(last) } });
        });
        return last;
      });
      if (tenant) context.show(tenant, `Deleted the tenant ${id}. Its audit rows stay.`);
      else
        context.show(
          { id, state: 'suspended' },
          `The realm of ${id} is being removed; the same again deletes the tenant.`,
        );
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
    'may migrate': tenant.mayMigrate ? 'yes' : 'no',
    issuers: tenant.issuers.map(issuerWords),
    created: tenant.createdAt,
    updated: tenant.updatedAt,
  });
}
