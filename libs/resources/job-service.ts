/** Jobs as their users see them: get, list, cancel, retry, and waiting for an end. */

import { sql } from 'kysely';
import { type Actor, type AuthorizationTarget, authorize, isAllowed } from '#libs/auth';
import { isUuid, notFound, RhyzomeError, type Tags } from '#libs/core';
import type { Database, Listener, Tx } from '#libs/db';
import { type JobRow, type JobStepRow, lockJob, requeueJob } from '#libs/jobs';
import { type AuditTarget, auditDone, auditingRefusals, type Caller, type ChangeOptions } from './caller.js';
import { cancelWithResource } from './cancel.js';
import { refuseInvalid } from './change-document.js';
import { blockersOf } from './dependencies.js';
import { JobWaits } from './job-waits.js';
import { type CoreDocument, inTransaction } from './kind.js';
import type { ListShape } from './list-query.js';
import { refuseHeldName, takingName } from './names.js';
import { authorizeTags, refuseNotOffered } from './permission-to-change.js';
import { isReadable, kindsRead } from './readable.js';
import { type Page, readPlainPage } from './reading.js';
import type { KindRegistry } from './registry.js';
import { coreOf, lockResource, updateResource } from './repository.js';
import { runChange } from './run-change.js';
import { type JobView, jobView } from './view.js';

const jobList: ListShape = {
  filters: {
    state: { column: sql.ref('r.state'), type: 'text', description: 'Exactly this state.' },
    action: { column: sql.ref('r.action'), type: 'text', description: 'E.g. create.' },
    kind: { column: sql.ref('r.kind'), type: 'text', description: 'Kind of the resource.' },
    resource: { column: sql.ref('r.resource_id'), type: 'uuid', description: 'Id of the resource.' },
  },
  sorts: {
    createdAt: {
      column: sql.ref('r.created_at'),
      cast: 'timestamptz',
      key: (row: JobRow) => row.created_at.toISOString(),
    },
  },
  defaultSort: 'createdAt',
  hasTags: false,
};

/** What a change of a job answered. */
export interface JobAnswer {
  status: number;
  body: JobView;
  isReplay: boolean;
}

interface FoundJob {
  job: JobRow;
  resource_tags: Tags;
  resource: { tags: Tags; createdBy: string } | null;
  steps: JobStepRow[] | null;
}

export class JobService {
  private readonly waits: JobWaits;

  constructor(
    private readonly db: Database,
    private readonly registry: KindRegistry,
    private readonly tokenKey: Buffer,
    listener: Listener,
    /** Aborts when this process is about to end: nobody waits here any more then. */
    draining = new AbortController().signal,
  ) {
    this.waits = new JobWaits(db, listener, draining);
  }

  /** With its steps. Throws RhyzomeError `not_found`. */
  async get(caller: Caller, id: string): Promise<JobView> {
    const found = await this.read(caller, id);
    return jobView(found.row, found.steps);
  }

  /** With what permission is decided on: its resource as it is, or was when the job was asked for if it is gone. */
  private async read(
    caller: Caller,
    id: string,
  ): Promise<{ row: JobRow; steps: JobStepRow[]; core: AuthorizationTarget }> {
    if (!isUuid(id)) throw notFound('job', id);
    const { tenantId } = caller.actor;
    const query = sql<FoundJob>`
      select to_jsonb(j) as job, j.resource_tags,
        (select jsonb_build_object('tags', r.tags, 'createdBy', r.created_by) from resource r
          where r.tenant_id = j.tenant_id and r.id = j.resource_id) as resource, (select jsonb_agg(to_jsonb(s) order by s.ordinal) from job_step s
        where s.tenant_id = j.tenant_id and s.job_id = j.id) as steps
      from job j where j.tenant_id = ${tenantId} and j.id = ${id}`;
    const [found] = await this.db.tenantRead(tenantId, query.compile(this.db.builder));
    if (!found) throw notFound('job', id);
    const { kind, resource_id: resourceId } = found.job;
    const { tags = found.resource_tags, createdBy = found.job.created_by } = found.resource ?? {};
    const core = { tenantId, kind, id: resourceId, tags, createdBy };
    if (!isAllowed(caller.actor, 'read', core)) throw notFound('job', id);
    return {
      core,
      row: withTimes(found.job, ['created_at', 'started_at', 'finished_at']),
      steps: (found.steps ?? []).map((step) => withTimes(step, ['started_at', 'finished_at'])),
    };
  }

  async list(caller: Caller, raw: Record<string, unknown>): Promise<Page<JobView>> {
    const { actor } = caller;
    const read = kindsRead(actor, this.registry.names);
    const resource =
      read.some.length > 0
        ? sql`left join lateral (select q.tags, q.created_by from resource q
            where q.tenant_id = r.tenant_id and q.id = r.resource_id offset 0) q on true`
        : sql``;
    const readable = isReadable(read, sql.ref('r.kind'), {
      id: sql.ref('r.resource_id'),
      tags: sql`coalesce(q.tags, r.resource_tags)`,
      createdBy: sql`coalesce(q.created_by, r.created_by)`,
    });
    return readPlainPage<JobRow, JobView>(this.db, this.tokenKey, actor.tenantId, {
      name: 'job',
      shape: jobList,
      raw,
      select: sql<JobRow>`select r.* from job r ${resource}`,
      base: sql`r.tenant_id = ${actor.tenantId} and ${readable}`,
      inOrder: true,
      view: (row) => jobView(row),
    });
  }

  /** Undoes what was done so far. Throws RhyzomeError `not_found`, `forbidden`, `not_cancellable`, `in_use`. */
  async cancel(caller: Caller, id: string, options: ChangeOptions = {}): Promise<JobAnswer> {
    return this.change(caller, id, 'cancel', options, async (tx, row) => {
      await this.refuseUndoing(tx, caller, row);
      return cancelWithResource(tx, row);
    });
  }

  /** Cancelling gives back what was: where that is permissions, only who may give them. */
  private async refuseUndoing(tx: Tx, { actor }: Caller, row: JobRow): Promise<void> {
    if (row.finished_at) return;
    const kind = this.registry.get(row.kind);
    const resource = kind.make(inTransaction(tx, row.tenant_id, actor));
    if (!resource.refuseUndoing) return;
    const { tenant_id: tenantId, resource_id: id, resource_name: name, resource_tags: tags } = row;
    await resource.load({ tenantId, id, kind: row.kind, name, tags: tags as Tags });
    const { previous } = row.request as { previous?: CoreDocument };
    await resource.refuseUndoing(tx, row.action, previous);
  }

  /** The stored request of a failed job again, claimed anew. Throws RhyzomeError `not_retryable` and what a claim throws. */
  async retry(caller: Caller, id: string, options: ChangeOptions = {}): Promise<JobAnswer> {
    return this.change(caller, id, 'retry', options, (tx) =>
      retryJob(tx, this.registry, caller.actor.tenantId, id, caller.actor),
    );
  }

  private async change(
    caller: Caller,
    id: string,
    verb: string,
    options: ChangeOptions,
    work: (tx: Tx, row: JobRow) => Promise<JobRow>,
  ): Promise<JobAnswer> {
    const { tenantId } = caller.actor;
    const target: AuditTarget = { kind: 'job', resourceName: id.slice(0, 63) };
    return auditingRefusals(this.db, caller, verb, target, async () => {
      const { row, core } = await this.read(caller, id);
      Object.assign(target, { resourceId: row.id, resourceName: row.resource_name });
      const kind = this.registry.get(row.kind);
      if (kind.administered) refuseNotOffered(kind, row.action, caller.actor);
      authorize(caller.actor, row.action, core);
      const answer = await runChange(this.db, tenantId, options, true, async (tx) => {
        const changed = await work(tx, row);
        await auditDone(tx, caller, verb, target, { action: row.action, kind: row.kind, resource: row.resource_id });
        return { status: 202, headers: { location: `/v1/jobs/${id}` }, body: jobView(changed) };
      });
      return { status: answer.status, body: answer.body as JobView, isReplay: answer.isReplay };
    });
  }

  /** Resolves when the job has ended, the time is up or this process is about to end; true if the job ended. */
  wait(caller: Caller, id: string, timeoutMs: number, signal?: AbortSignal): Promise<boolean> {
    return this.waits.wait(caller.actor.tenantId, id, timeoutMs, signal);
  }
}

/** Also used by the CLI, which has no actor. The resource must still be as the failed job left it. */
export async function retryJob(
  tx: Tx,
  registry: KindRegistry,
  tenantId: string,
  id: string,
  actor?: Actor,
): Promise<JobRow> {
  const job = await lockJob(tx, tenantId, id);
  if (job.state !== 'failed') {
    throw new RhyzomeError('not_retryable', `The job is “${job.state}”; only a failed one can be retried.`);
  }
  const kind = registry.get(job.kind);
  const row = await lockResource(tx, kind, { id: job.resource_id, tenantId, kind: kind.name, name: '', tags: {} });
  // What was never made can be changed and is made by its create all the same.
  const isUnmade = job.action === 'create' && row?.observed_generation === 0;
  const later = await tx
    .selectFrom('job')
    .select('id')
    .where('tenant_id', '=', tenantId)
    .where('resource_id', '=', job.resource_id)
    .where('created_at', '>', job.created_at)
    .$if(isUnmade, (qb) => qb.where('finished_at', 'is', null))
    .executeTakeFirst();
  if (!row || later) {
    throw new RhyzomeError('not_retryable', 'The resource has changed since or is gone; ask for the change anew.');
  }
  const core = coreOf(row);
  const resource = await kind.make(inTransaction(tx, tenantId, actor)).load(core);
  const request = job.request as { previous?: CoreDocument; document?: CoreDocument; body?: unknown };
  if (job.action === 'create') {
    await resource.claim(tx, { action: 'create', isRetry: true });
    await updateResource(tx, core, { state: 'pending' });
  } else if (job.action === 'delete') {
    const blockers = await blockersOf(tx, core);
    if (blockers.length > 0)
      throw new RhyzomeError('in_use', `The ${kind.name} has come into use since.`, { blockers });
    await kind.leaving?.(tx, core, actor);
    await updateResource(tx, core, { state: 'deleting' });
  } else if (request.document) {
    const previous = resource.document();
    resource.propose({ ...core, name: request.document.name, tags: request.document.tags ?? {} }, request.document);
    const { name, tags = {} } = request.document;
    if (actor) authorizeTags(actor, job.action, { ...core, tags });
    // What it refers to may be gone, and is looked up by it.
    refuseInvalid(await resource.validate(false));
    const write = updateResource(tx, core, { ...request.document, state: 'updating', raiseGeneration: true });
    await takingName(core, name, write);
    if (name !== previous.name) await refuseHeldName(tx, core, name);
    await resource.claim(tx, { action: 'update', previous, isRestore: false });
  } else {
    await kind.actions?.[job.action]?.claim(resource, tx, request.body ?? {}, { isRetry: true });
    await updateResource(tx, core, { state: 'updating' });
  }
  return requeueJob(tx, job);
}

function withTimes<T>(row: T, columns: readonly (keyof T)[]): T {
  const copy = { ...row };
  for (const column of columns) {
    if (typeof copy[column] === 'string') copy[column] = new Date(copy[column] as string) as T[typeof column];
  }
  return copy;
}
