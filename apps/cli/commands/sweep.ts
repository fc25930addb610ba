/** `rhyzome sweep`: what nobody owns, on the nodes and in the database, and an administrator's word on it. */
import { Command, InvalidArgumentError } from 'commander';
import { SYSTEM_TENANT } from '#libs/core';
import { administrator, type Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import type {
  AccountOrphanView,
  AccountRemovalView,
  InventoryView,
  LeftoverView,
  MissingView,
  OrphanView,
  RemovalView,
  SweepSettings,
} from '../sweep.js';
import { table } from '../table.js';

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
    const sweep = await import('../sweep.js');
    const found = await context.read(async (tx) => ({
      settings: await sweep.readSweepSettings(tx),
      inventories: await sweep.listInventories(tx),
      orphans: await sweep.listOrphans(tx),
      missing: await sweep.listMissing(tx),
      leftovers: await sweep.listLeftovers(tx),
      removals: await sweep.listRemovals(tx),
      accounts: await sweep.listAccountOrphans(tx),
      accountRemovals: await sweep.listAccountRemovals(tx),
    }));
    context.show(found, words(found));
  });
}

interface Found {
  settings: SweepSettings;
  inventories: InventoryView[];
  orphans: OrphanView[];
  missing: MissingView[];
  leftovers: LeftoverView[];
  removals: RemovalView[];
  accounts: AccountOrphanView[];
  accountRemovals: AccountRemovalView[];
}

function words(found: Found): string {
  const { settings: current, inventories, orphans, missing, leftovers, removals, accounts } = found;
  const oldest = inventories.reduce((least, { takenAt }) => Math.min(least, takenAt.getTime()), Date.now());
  const parts = [
    settingsWords(current),
    `${inventories.length} nodes have told what they have${inventories.length > 0 ? `, the first of them at ${new Date(oldest).toISOString()}` : ''}.`,
  ];
  if (orphans.length > 0) {
    const rows = orphans.map((o) => [
      o.node,
      o.kind,
      o.id,
      o.tenant,
      o.state,
      size(o.sizeBytes),
      o.firstSeenAt,
      fateWords(o),
    ]);
    const headings = ['NODE', 'KIND', 'ID', 'TENANT', 'STATE', 'SIZE', 'FIRST SEEN', 'WHAT BECOMES OF IT'];
    parts.push(`On nodes, and nobody’s:\n${table(headings, rows)}`);
  }
  if (missing.length > 0) {
    const rows = missing.map((m) => [m.node, m.kind, m.id, m.tenant, m.name, m.firstSeenAt]);
    parts.push(
      `Made on nodes, and not there any more:\n${table(['NODE', 'KIND', 'ID', 'TENANT', 'NAME', 'FIRST SEEN'], rows)}`,
    );
  }
  if (leftovers.length > 0) {
    const rows = leftovers.map((l) => [
      l.title,
      l.tenant,
      l.id,
      l.firstSeenAt,
      l.isMended ? 'mended after an hour' : 'needs a look',
    ]);
    parts.push(
      `In the database, and of nothing:\n${table(['WHAT', 'TENANT', 'ID', 'FIRST SEEN', 'WHAT BECOMES OF IT'], rows)}`,
    );
  }
  if (accounts.length > 0) parts.push(accountWords(accounts));
  if (orphans.length + missing.length + leftovers.length + accounts.length === 0)
    parts.push('Nothing is nobody’s, and nothing is missing.');
  if (removals.length > 0) {
    const rows = removals.map((r) => [
      r.node,
      r.kind,
      r.id,
      r.tenant,
      r.removedAt,
      r.approvedBy ?? 'nobody: it had waited',
    ]);
    parts.push(`Removed last:\n${table(['NODE', 'KIND', 'ID', 'TENANT', 'WHEN', 'ON WHOSE WORD'], rows)}`);
  }
  if (found.accountRemovals.length > 0) {
    const rows = found.accountRemovals.map((r) => [
      r.tenant,
      r.kind,
      r.name,
      r.at,
      r.removedAt,
      r.approvedBy ?? 'nobody: it had waited',
    ]);
    const headings = ['TENANT', 'KIND', 'NAME', 'AT', 'WHEN', 'ON WHOSE WORD'];
    parts.push(`Removed last at the identity provider:\n${table(headings, rows)}`);
  }
  return parts.join('\n\n');
}

function accountWords(accounts: readonly AccountOrphanView[]): string {
  const rows = accounts.map((a) => [a.tenant, a.kind, a.name, a.at, a.firstSeenAt, accountFateWords(a)]);
  const headings = ['TENANT', 'KIND', 'NAME', 'AT', 'FIRST SEEN', 'WHAT BECOMES OF IT'];
  return `At the identity provider, and nobody’s:\n${table(headings, rows)}`;
}

function accountFateWords({ fate, dueAt, failure, kind, tenant }: AccountOrphanView): string {
  if (failure) return `cannot be removed: ${failure.message}`;
  switch (fate) {
    case 'held':
      return 'stays until the restored database is compared';
    case 'removing':
    case 'approved':
      return 'is being removed';
    case 'noWord':
      return `stays, with all that is in it, until \`rhyzome sweep remove-account ${tenant} ${kind} login\``;
    case 'reported':
      return 'is reported only';
    case 'due':
      return 'is removed when its turn comes';
    case 'waiting':
      return `is removed after ${dueAt.toISOString()}`;
  }
}

function settingsWords({ mode, afterHours, isHeld }: SweepSettings): string {
  if (isHeld) return 'The database was restored and not compared yet (`rhyzome restore report`): nothing is removed.';
  if (mode === 'report') return 'Nothing is removed without `rhyzome sweep approve` or `remove`.';
  return `What was nobody’s for ${afterHours} hours is removed: of each node at most a tenth a day, disks and snapshots only with a tombstone.`;
}

function fateWords({ fate, dueAt, failure }: OrphanView): string {
  switch (fate) {
    case 'held':
      return 'stays: the restored database was not compared yet';
    case 'removing':
      return failure ? `is tried again: ${failure.message}` : 'is being removed';
    case 'unknownKind':
      return 'stays: this version does not know the kind';
    case 'noTombstone':
      return 'stays: the database does not know that it was deleted';
    case 'approved':
      return 'is removed with the next inventory';
    case 'reported':
      return 'stays until it is approved';
    case 'due':
      return 'is removed when its turn comes';
    case 'waiting':
      return `is removed after ${dueAt.toISOString()}`;
  }
}

function size(bytes: number | null): string | null {
  return bytes === null ? null : `${Math.round((bytes / 1024 ** 3) * 10) / 10} GiB`;
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
      const sweep = await import('../sweep.js');
      const approved = await context.change(async ({ tx, audit }) => {
        const count = await sweep.approveAccounts(tx, administrator(), all);
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
      const { approveAccount } = await import('../sweep.js');
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
