/** What `rhyzome sweep` shows, in tables and words: what nobody owns, and what becomes of each. Reads nothing itself. */
import type { InventoryView, LeftoverView, MissingView, OrphanView, RemovalView, SweepSettings } from './sweep.js';
import type { AccountOrphanView, AccountRemovalView } from './sweep-accounts.js';
import { table } from './table.js';

/** All that one look at the sweep shows. */
export interface Found {
  settings: SweepSettings;
  inventories: InventoryView[];
  orphans: OrphanView[];
  missing: MissingView[];
  leftovers: LeftoverView[];
  removals: RemovalView[];
  accounts: AccountOrphanView[];
  accountRemovals: AccountRemovalView[];
}

export function sweepWords(found: Found): string {
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

export function settingsWords({ mode, afterHours, isHeld }: SweepSettings): string {
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
