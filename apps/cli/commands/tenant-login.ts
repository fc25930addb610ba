/** `rhyzome tenant suspend`, `resume`, `admin` and `move`: who of a tenant may log in, with what, and where. */
import { Command, Option } from 'commander';
import type { Database } from '#libs/db';
import type { TenantIssuer } from '#libs/tenants';
import type { Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { TenantLogin, type WaitFlags } from '../tenant-login.js';
import { issuerOptions, waitOptions } from './tenant-options.js';

export function suspendCommand(context: Context): Command {
  return stateCommand(context, 'suspend', 'refuse its tokens from now on and let nobody log in; what runs runs on', {
    state: 'suspended',
    said: 'Suspended',
  });
}

export function resumeCommand(context: Context): Command {
  return stateCommand(context, 'resume', 'end a suspension', { state: 'active', said: 'Resumed' });
}

function stateCommand(
  context: Context,
  name: 'suspend' | 'resume',
  description: string,
  { state, said }: { state: 'suspended' | 'active'; said: string },
): Command {
  return waitOptions(new Command(name))
    .description(description)
    .argument('<id>')
    .action(async (id: string, flags: WaitFlags) => {
      const { updateTenant } = await import('#libs/tenants');
      const tenant = await context.database(async (db) => {
        const changed = await context.changeOn(db, async ({ tx, audit }) => {
          const after = await updateTenant(tx, id, { state });
          await audit({ tenantId: id, action: `tenant.${name}` });
          return after;
        });
        // Tokens are refused by now; the realm follows.
        await (await TenantLogin.open(context, db, id, flags)).changeRealm({});
        return changed;
      });
      context.show(tenant, `${said} the tenant ${id}.`);
    });
}

export function adminCommand(context: Context): Command {
  return waitOptions(new Command('admin'))
    .description('give an administrator of a tenant a new one-time password, and make one that is not there')
    .argument('<id>', 'the tenant')
    .argument('[name]', 'the user (default: the only administrator)')
    .option('--email <address>', 'where a new one is reached')
    .action(async (id: string, name: string | undefined, flags: WaitFlags & { email?: string }) => {
      const { findTenant } = await import('#libs/tenants');
      const done = await context.database(async (db) => {
        await db.operatorTransaction((tx) => findTenant(tx, id));
        const login = await TenantLogin.open(context, db, id, flags);
        const user = name ?? (await onlyAdmin(login));
        const made = await login.makeAdmin(user, flags.email);
        return {
          name: user,
          username: await login.loginName(user),
          oneTimePassword: made ?? (await login.invite(user)),
        };
      });
      context.show(done, passwordWords(done.username, done.oneTimePassword));
    });
}

async function onlyAdmin(login: TenantLogin): Promise<string> {
  const [first, ...others] = await login.admins();
  if (first !== undefined && others.length === 0) return first;
  const message =
    first === undefined
      ? 'The tenant has no administrator that Rhyzome keeps: name one to make.'
      : `The tenant has several administrators, name one: ${[first, ...others].join(', ')}.`;
  throw new CliError(exitStatus.usage, 'usage', message);
}

/** The only place where it is ever shown. */
export function passwordWords(username: string, password: string): string {
  return `The user ${username} logs in with the one-time password\n\n  ${password}\n\nand has to choose another then. It is shown this once.`;
}

interface MoveFlags extends WaitFlags {
  to?: 'realm' | 'organization' | 'issuer';
  removeLeft?: boolean;
  force?: boolean;
}

export function moveCommand(context: Context): Command {
  const command = waitOptions(new Command('move'))
    .description('let the people of a tenant log in elsewhere; the same again goes on')
    .argument('<id>')
    .addOption(new Option('--to <place>', 'where').choices(['realm', 'organization', 'issuer']))
    .option('--remove-left', 'remove the place that a move has left, which is closed')
    .option('--force', 'remove without asking')
    .addHelpText(
      'after',
      `
To a realm or an organization, users, groups, roles and service accounts with keys are made anew there; then the issuer changes.
Passwords cannot go along: \`rhyzome tenant admin\` gives an administrator a one-time password, and administrators invite the others.
To an issuer (--issuer URL) nobody goes along: the users and groups that Rhyzome keeps are removed, with the grants to these users.`,
    );
  const issuers = issuerOptions(command);
  return command.action(async (id: string, flags: MoveFlags) => {
    const { findTenant } = await import('#libs/tenants');
    const tenant = await context.database(async (db) => {
      await db.operatorTransaction((tx) => findTenant(tx, id));
      const login = await TenantLogin.open(context, db, id, flags);
      await move(context, db, login, flags, issuers());
      return db.operatorTransaction((tx) => findTenant(tx, id));
    });
    context.show(tenant, await movedWords(id, flags));
  });
}

async function movedWords(id: string, { to, removeLeft }: MoveFlags): Promise<string> {
  if (to === undefined) return `Removed what the last move of ${id} had left.`;
  if (to === 'issuer') return `The tokens of ${id} come from its own issuer now.`;
  const left = removeLeft ? '' : ` What it has left is closed; \`rhyzome tenant move ${id} --remove-left\` removes it.`;
  return (
    `The people of ${id} log in by ${to} now.${left}\n` +
    `Their passwords did not go along: \`rhyzome tenant admin ${id}\` gives an administrator a one-time password.`
  );
}

async function move(
  context: Context,
  db: Database,
  login: TenantLogin,
  flags: MoveFlags,
  issuers: TenantIssuer[] | undefined,
): Promise<void> {
  const { to, removeLeft } = flags;
  const refuse = (message: string) => new CliError(exitStatus.usage, 'usage', message);
  if (to === undefined && !removeLeft) throw refuse('Say where: --to realm, organization or issuer.');
  if ((to === 'issuer') !== (issuers !== undefined)) throw refuse('--to issuer and --issuer URL belong together.');
  if (to === 'issuer') return moveAway(context, db, login, flags, issuers!);
  if (to !== undefined) await moveHere(context, db, login, to);
  const there = await login.realm();
  if (!removeLeft || !there?.leftMode) return;
  await askOnce(context, flags.force, `This removes the ${there.leftMode} that ${login.tenantId} has left.`);
  await login.changeRealm({ leftPlace: null });
}

async function moveHere(
  context: Context,
  db: Database,
  login: TenantLogin,
  to: 'realm' | 'organization',
): Promise<void> {
  const { settings } = await context.settings();
  if (!settings.keycloak)
    throw new CliError(exitStatus.configuration, 'config_invalid', 'There is no “keycloak” in the settings.');
  const there = await login.realm();
  if (!there || (there.placeMode === there.mode && there.mode === to)) await login.makeRealm(to);
  else await login.changeRealm({ mode: to });
  const { findTenant, updateTenant } = await import('#libs/tenants');
  await context.changeOn(db, async ({ tx, audit }) => {
    const { issuers } = await findTenant(tx, login.tenantId);
    if (!issuers.some(({ managed }) => managed) || issuers.every(({ managed }) => managed)) return;
    // Its own issuer, from which it has come.
    await updateTenant(tx, login.tenantId, { issuers: [] });
    await audit({ tenantId: login.tenantId, action: 'tenant.move', details: { to, issuers } });
  });
}

async function moveAway(
  context: Context,
  db: Database,
  login: TenantLogin,
  flags: MoveFlags,
  issuers: TenantIssuer[],
): Promise<void> {
  if (!flags.wait)
    throw new CliError(exitStatus.usage, 'usage', 'A move to an issuer takes several jobs: not with --no-wait.');
  if (await login.realm()) {
    const question = `This removes the realm of ${login.tenantId} and all users and groups that Rhyzome keeps for it.`;
    await askOnce(context, flags.force, question);
    for (const kind of ['user', 'group']) await login.removeAll(kind);
    await login.removeRealm();
  }
  const { updateTenant } = await import('#libs/tenants');
  await context.changeOn(db, async ({ tx, audit }) => {
    await updateTenant(tx, login.tenantId, { issuers });
    await audit({ tenantId: login.tenantId, action: 'tenant.move', details: { to: 'issuer', issuers } });
  });
}

/** Throws CliError where the answer is not yes. */
export async function askOnce(context: Context, force: boolean | undefined, what: string): Promise<void> {
  if (force) return;
  const answer = await context.ask(`${what} Type yes to go on: `);
  if (answer.trim() !== 'yes') throw new CliError(exitStatus.refused, 'not_confirmed', 'Nothing was removed.');
}
