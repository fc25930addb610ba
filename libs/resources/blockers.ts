/**
 * What a refusal tells of other resources that stand in the way: those that its reader may read, and of the others how
 * many there are.
 */
import { sql } from 'kysely';
import { isAllowed, mayAll } from '#libs/auth';
import { RhyzomeError } from '#libs/core';
import type { RowScope } from './kind.js';
import { type Referenced, referencedColumn } from './reference.js';

/** A refusal names no more. */
const MAX_NAMED = 20;

/** The same error, as whoever asks in the scope may see it. One statement where there is something that may be hidden. */
export async function asMayBeSeen<Thrown>(scope: RowScope, error: Thrown): Promise<Thrown | RhyzomeError> {
  if (!(error instanceof RhyzomeError) || !error.details.blockers) return error;
  const { blockers } = error.details;
  const readable = await readableOf(scope, [
    ...new Set(blockers.filter(({ kind }) => !isOpen(scope, kind)).map(({ id }) => id)),
  ]);
  const shown = blockers.filter(({ kind, id }) => isOpen(scope, kind) || readable.has(id));
  const hidden = blockers.length - shown.length;
  if (hidden === 0 && shown.length <= MAX_NAMED) return error;
  const { message, code, details } = error;
  return new RhyzomeError(code, hidden === 0 ? message : `${message} ${hiddenWords(hidden)}`, {
    ...details,
    blockers: shown.slice(0, MAX_NAMED),
  });
}

/** A sentence about those that are not named. */
export function hiddenWords(count: number): string {
  return count === 1 ? 'One of them you may not see.' : `${count} of them you may not see.`;
}

/** Jobs are those of what the request is about, or of what it names. */
function isOpen({ actor }: RowScope, kind: string): boolean {
  return !actor || kind === 'job' || mayAll(actor, 'read', kind);
}

async function readableOf(scope: RowScope, ids: readonly string[]): Promise<Set<string>> {
  const { actor, tenantId } = scope;
  if (!actor || ids.length === 0) return new Set();
  const rows = await scope.rows(
    sql<Referenced>`select ${referencedColumn} from resource r
      where r.tenant_id = ${tenantId} and r.id = any(${ids}::uuid[])`.compile(scope.builder),
  );
  return new Set(rows.flatMap(({ referenced }) => (isAllowed(actor, 'read', referenced) ? [referenced.id!] : [])));
}
