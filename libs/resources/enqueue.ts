/** The end of every change: its job, its audit row and the answer, in one statement. */
import { sql } from 'kysely';
import { newId, type ResourceCore } from '#libs/core';
import { committingWith, type Tx } from '#libs/db';
import { type JobRow, jobValues, wakeWorkers } from '#libs/jobs';
import { auditDetails } from './audit-details.js';
import { type Caller, type ChangeResult, doneValues } from './caller.js';
import type { CoreRow, KindDefinition } from './kind.js';
import { findQuery } from './repository.js';
import { etagOf, resourceView } from './view.js';

export interface JobToEnqueue {
  action: string;
  request: Record<string, unknown>;
  /** The job whose place a removal takes. */
  supersedes?: string;
}

/**
 * The last statement of a change; gives the resource as the change has left it. `commits`: and ends the transaction.
 * `document`: of a create, what was asked for; the audit tells of it what the kind lets it.
 */
export async function enqueue(
  tx: Tx,
  caller: Caller,
  kind: KindDefinition,
  core: ResourceCore,
  job: JobToEnqueue,
  options: { commits?: boolean; document?: object } = {},
): Promise<ChangeResult> {
  const values = jobValues({
    tenantId: core.tenantId,
    id: newId(),
    resourceId: core.id,
    kind: kind.name,
    resourceName: core.name,
    resourceTags: core.tags,
    createdBy: caller.actor.subject,
    requestId: caller.requestId,
    ...job,
  });
  wakeWorkers();
  const target = { kind: kind.name, resourceId: core.id, resourceName: core.name };
  const details = auditDetails(kind, { document: options.document, ...job.request });
  const audit = doneValues(caller, job.action, target, details);
  const write = () =>
    sql<CoreRow>`
      with enqueued as (${tx.insertInto('job').values(values)}), audited as (${tx.insertInto('audit').values(audit)})
      ${findQuery(core, kind, core.id)}`.execute(tx);
  const after = await (options.commits ? committingWith(tx, write) : write());
  return accepted(kind, after.rows[0]!, { id: values.id, state: 'queued' });
}

/** The answer to a change whose job goes on. */
export function accepted(kind: KindDefinition, row: CoreRow, job: Pick<JobRow, 'id' | 'state'>): ChangeResult {
  return {
    status: 202,
    body: { ...resourceView(kind, row), job: { id: job.id, state: job.state } },
    etag: etagOf(row),
    jobId: job.id,
  };
}
