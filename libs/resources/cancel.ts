/** Cancelling a job, with what that means for its resource. */
import { RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { cancelJob, type JobRow, lockSubject } from '#libs/jobs';
import { blockersOf } from './dependencies.js';
import { updateResource } from './repository.js';

/**
 * Asks a job to be undone. A cancelled create removes what it makes: not while something uses that, and nothing can begin
 * to use it from then on. Also used by the CLI. Throws RhyzomeError `not_found`, `not_cancellable`, `in_use`.
 */
export async function cancelWithResource(
  tx: Tx,
  job: Pick<JobRow, 'tenant_id' | 'id' | 'resource_id' | 'action' | 'kind'>,
): Promise<JobRow> {
  if (job.action !== 'create') return cancelJob(tx, job.tenant_id, job.id);
  const core = { tenantId: job.tenant_id, id: job.resource_id };
  await lockSubject(tx, core.tenantId, core.id, 'update');
  const cancelled = await cancelJob(tx, job.tenant_id, job.id);
  if (cancelled.finished_at) return cancelled;
  const blockers = await blockersOf(tx, core);
  if (blockers.length > 0) {
    throw new RhyzomeError('in_use', `The ${job.kind} is in use already; remove what uses it first.`, { blockers });
  }
  await updateResource(tx, core, { state: 'deleting' });
  return cancelled;
}
