/** `rhyzome sweep`: what nobody owns, on the nodes and in the database, and an administrator's word on it. */
import { Command, InvalidArgumentError } from 'commander';
import { SYSTEM_TENANT } from '#libs/core';
import { administrator, type Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { settingsWords, sweepWords } from '../sweep-words.js';

const MAX_HOURS = 24 * 366;

export function sweepCommand(context: Context): Command {
  return new Command('sweep')
    .description('what nobody owns, on the nodes and in the database')
    .addCommand(list(context), { isDefault: true })
    .addCommand(now(context))
    .addCommand(approve(context))
    .addCommand(remove(context))
    .addCommand(approveAccounts(context))
    .addCommand(removeAccount(context))
    .addCommand(settings(context));
}

function list(context: Context): Command {
  return new Command('list').description('what was found, and what becomes of it').action(async () => {
    const [sweep, accounts] = await Promise.all([import('../sweep.js'), import('../sweep-accounts.js')]);
    const found = await context.read(async (tx) => ({
      settings: await sweep.readSweepSettings(tx),
      inventories: await sweep.listInventories(tx),
      orphans: await sweep.listOrphans(tx),
      missing: await sweep.listMissing(tx),
      leftovers: await sweep.listLeftovers(tx),
      removals: await sweep.listRemovals(tx),
      accounts: await accounts.listAccountOrphans(tx),
      accountRemovals: await accounts.listAccountRemovals(tx),
    }));
    context.show(found, sweepWords(found));
  });
}

function now(context: Context): Command {
  return new Command('now')
    .description('ask a node, or all, for an inventory now')
    .argument('[idOrName]', 'the node')
    .action(async (idOrName?: string) => {
      const [{ wantInventories }, { findNode }] = await Promise.all([import('../sweep.js'), import('../nodes.js')]);
      const { asked } = await context.read(async (tx) => {
        const node = idOrName === undefined ? undefined : await findNode(tx, idOrName);
        return { asked: await wantInventories(tx, node?.id) };
      });
      context.show({ asked }, `Asked ${asked} nodes. \`rhyzome sweep\` shows what they tell.`);
    });
}

function approve(context: Context): Command {
  return new Command('approve')
    .description('let go what nobody owns on a node and has waited long enough, however much it is')
    .argument('<idOrName>', 'the node')
    .option('--all', 'also what has not waited')
    .action(async (idOrName: string, { all = false }: { all?: boolean }) => {
      const [{ approveOrphans }, { findNode }] = await Promise.all([import('../sweep.js'), import('../nodes.js')]);
      const { node, approved } = await context.change(async ({ tx, audit }) => {
        const found = await findNode(tx, idOrName);
        const items = await approveOrphans(tx, found.id, administrator(), all);
        await audit({
          ...auditOf('approve', found),
          details: { all, items: items.slice(0, 100), count: items.length },
        });
        return { node: found, approved: items };
      });
      context.show({ node: node.name, approved }, `Node ${node.name} removes ${approved.length} that nobody owns.`);
    });
}

function remove(context: Context): Command {
  return new Command('remove')
    .description('let go one that nobody owns, now; for a disk that the database does not know to be deleted, asks')
    .argument('<idOrName>', 'the node')
    .argument('<kind>')
    .argument('<id>')
    .option('--force', 'do not ask')
    .action(async (idOrName: string, kind: string, id: string, { force }: { force?: boolean }) => {
      const [{ findOrphan, removeOrphan }, { findNode }] = await Promise.all([
        import('../sweep.js'),
        import('../nodes.js'),
      ]);
      const look = await context.read(async (tx) => findOrphan(tx, await findNode(tx, idOrName), kind, id));
      if (look.needsTombstone && !force) await confirm(context, look.kind, look.id);
      const node = await context.change(async ({ tx, audit }) => {
        const found = await findNode(tx, idOrName);
        const orphan = await findOrphan(tx, found, kind, id);
        await removeOrphan(tx, found.id, orphan, administrator());
        await audit({ ...auditOf('remove', found), details: { ...orphan } });
        return found;
      });
      context.show(
        { node: node.name, kind: look.kind, id: look.id },
        `Node ${node.name} removes ${look.kind} ${look.id}.`,
      );
    });
}

function approveAccounts(context: Context): Command {
  return new Command('approve-accounts')
    .description('let go what nobody owns at the identity provider and has waited long enough, however much it is')
    .option('--all', 'also what has not waited')
    .action(async ({ all = false }: { all?: boolean }) => {
      const accounts = await import('../sweep-accounts.js');
      const approved = await context.change(async ({ tx, audit }) => {
        const count = await accounts.approveAccounts(tx, administrator(), all);
        await audit({ tenantId: SYSTEM_TENANT, action: 'sweep.approveAccounts', details: { all, count } });
        return count;
      });
      context.show({ approved }, `${approved} that nobody owns are removed at the identity provider.`);
    });
}

function removeAccount(context: Context): Command {
  return new Command('remove-account')
    .description('let go one that nobody owns at the identity provider; for a whole realm or organization, asks')
    .argument('<tenant>')
    .argument('<kind>', 'user, group, serviceaccount; realm: the whole place')
    .argument('<name>')
    .option('--force', 'do not ask')
    .action(async (tenant: string, kind: string, name: string, { force }: { force?: boolean }) => {
      const { approveAccount } = await import('../sweep-accounts.js');
      if (kind === 'realm' && !force) {
        const question = `All people and programs of ${tenant} there lose their accounts, for good. Type ${tenant} to go on: `;
        if ((await context.ask(question)).trim() !== tenant)
          throw new CliError(exitStatus.refused, 'not_confirmed', 'Nothing was changed: that was not its tenant.');
      }
      await context.change(async ({ tx, audit }) => {
        await approveAccount(tx, { tenant, kind, name }, administrator());
        const details = { tenant, kind, name };
        await audit({ tenantId: SYSTEM_TENANT, action: 'sweep.removeAccount', kind, resourceName: name, details });
      });
      context.show({ tenant, kind, name }, `The ${kind} ${name} of ${tenant} is removed at the identity provider.`);
    });
}

async function confirm(context: Context, kind: string, id: string): Promise<void> {
  const question =
    `The database does not know that ${kind} ${id} was deleted: it may have been made by a database that was lost, and what it ` +
    'holds is gone for good. Type its id to go on: ';
  if ((await context.ask(question)).trim() !== id)
    throw new CliError(exitStatus.refused, 'not_confirmed', 'Nothing was changed: that was not its id.');
}

function hours(text: string): number {
  const value = /^\d{1,5}$/.test(text) ? Number(text) : 0;
  if (value < 1 || value > MAX_HOURS) throw new InvalidArgumentError(`It must be 1 to ${MAX_HOURS} hours.`);
  return value;
}

interface SettingsFlags {
  after?: number;
  reportOnly?: boolean;
  remove?: boolean;
}

function settings(context: Context): Command {
  return new Command('settings')
    .description('what the sweep does by itself; without an option, shows it')
    .option('--after <hours>', 'remove what was nobody’s for so long', hours)
    .option('--report-only', 'remove nothing without an administrator’s word')
    .option('--remove', 'remove what was nobody’s for long enough')
    .action(async (flags: SettingsFlags) => {
      if (flags.reportOnly && flags.remove) throw new InvalidArgumentError('Name --report-only or --remove.');
      const { readSweepSettings, writeSweepSettings } = await import('../sweep.js');
      const mode = flags.reportOnly ? 'report' : flags.remove ? 'remove' : undefined;
      const isChange = mode !== undefined || flags.after !== undefined;
      const current = isChange
        ? await context.change(async ({ tx, audit }) => {
            await writeSweepSettings(tx, { mode, afterHours: flags.after });
            const written = await readSweepSettings(tx);
            await audit({ tenantId: SYSTEM_TENANT, action: 'sweep.settings', details: { ...written } });
            return written;
          })
        : await context.read(readSweepSettings);
      context.show(current, settingsWords(current));
    });
}

function auditOf(verb: string, node: { id: string; name: string }) {
  return {
    tenantId: SYSTEM_TENANT,
    action: `sweep.${verb}`,
    kind: 'node',
    resourceId: node.id,
    resourceName: node.name,
  };
}
