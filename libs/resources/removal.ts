/**
 * Asking for the removal of one resource whose row the caller has locked: what stands against it, and its job. A job that
 * has not ended gives way; a second removal answers with the first's job.
 */
import { RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { endSuperseded, unendedJob } from '#libs/jobs';
import type { Caller, ChangeResult } from './caller.js';
import { blockersOf } from './dependencies.js';
import { accepted, enqueue } from './enqueue.js';
import type { CoreRow, KindDefinition } from './kind.js';
import { coreOf, updateResource } from './repository.js';

export interface RemovalOptions {
  /** What depends on it is being removed by the same request: its job waits for that. */
  afterDependants?: boolean;
}

/** Throws RhyzomeError `protected`, `in_use` before anything is written. */
export async function removeLocked(
  tx: Tx,
  caller: Caller,
  kind: KindDefinition,
  row: CoreRow,
  { afterDependants = false }: RemovalOptions = {},
): Promise<ChangeResult> {
  const core = coreOf(row);
  const running = await unendedJob(tx, core.tenantId, core.id);
  if (running?.action === 'delete') return accepted(kind, row, running);
  if (row.deletion_protection) {
    throw new RhyzomeError('protected', 'deletionProtection is on; set it to false first.');
  }
  const blockers = afterDependants ? [] : await blockersOf(tx, core);
  if (blockers.length > 0) {
    throw new RhyzomeError(
      'in_use',
      `The ${kind.name} is in use; remove what uses it first, or all at once with cascade=true.`,
      { blockers },
    );
  }
  await kind.leaving?.(tx, core, caller.actor);
  if (running) await endSuperseded(tx, running);
  await updateResource(tx, core, { state: 'deleting', raiseGeneration: true });
  return enqueue(tx, caller, kind, core, {
    action: 'delete',
    request: afterDependants ? { cascade: true } : {},
    supersedes: running?.id,
  });
}
