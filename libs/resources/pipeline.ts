/**
 * The one way from a request to a change, behind REST and gRPC: authorize, validate, and in one transaction write the
 * resource, what it claims, its job, its audit row and the idempotency record. Knows no kind by name and no protocol.
 */

import { sql } from 'kysely';
import { authorize, may } from '#libs/auth';
import { newId, notFound, type ResourceCore, RhyzomeError } from '#libs/core';
import { allInOrder, type Database, type Tx, violatedForeignKey } from '#libs/db';
import { endSuperseded, type JobRow, jobValues, unendedJob, wakeWorkers } from '#libs/jobs';
import {
  type AuditTarget,
  auditingRefusals,
  type Caller,
  type ChangeOptions,
  type ChangeResult,
  doneValues,
  resultOf,
  storedAnswer,
} from './caller.js';
import { patched, readOnlyOf, refuseInvalid, validated } from './change-document.js';
import { blockersOf } from './dependencies.js';
import { type CoreDocument, type CoreRow, inTransaction, type KindDefinition, type KindResource } from './kind.js';
import { refuseHeldName, takingName } from './names.js';
import { coreOf, findQuery, findResource, insertResource, lockResource, updateResource } from './repository.js';
import { runChange } from './run-change.js';
import { etagOf, refuseStale, resourceView } from './view.js';

interface Target {
  kind: KindDefinition;
  row: CoreRow;
  core: ResourceCore;
  resource: KindResource<any>;
}

export class Pipeline {
  constructor(private readonly db: Database) {}

  /** Creates a resource. Throws RhyzomeError: forbidden, invalid, name_taken, and what the kind's claim throws. */
  async create(
    caller: Caller,
    kind: KindDefinition,
    body: unknown,
    options: ChangeOptions = {},
  ): Promise<ChangeResult> {
    const { actor } = caller;
    const name =
      typeof (body as CoreDocument)?.name === 'string' ? (body as CoreDocument).name.slice(0, 63) : undefined;
    return auditingRefusals(this.db, caller, 'create', { kind: kind.name, resourceName: name }, async () => {
      const permission = authorize(actor, 'create', { tenantId: actor.tenantId, kind: kind.name });
      refuseNotOffered(kind, 'create');
      const document = validated<CoreDocument>(kind.dto.create, body, { readOnly: readOnlyOf(kind) });
      const core: ResourceCore = {
        id: newId(),
        tenantId: actor.tenantId,
        kind: kind.name,
        name: document.name,
        tags: document.tags ?? {},
      };
      return this.change(caller, kind, 'create', options, async (tx) => {
        const resource = kind.make(inTransaction(tx, actor.tenantId));
        resource.propose(core, document);
        refuseInvalid(await resource.validate(true));
        await allInOrder([
          takingName(core, core.name, insertResource(tx, permission, core, document, actor.subject)),
          refuseHeldName(tx, core, core.name),
          claimed(resource.claim(tx, { action: 'create', isRetry: false })),
        ]);
        const result = await this.enqueue(tx, caller, kind, core, { action: 'create', request: {} });
        return { ...result, secrets: resource.secrets?.() };
      });
    });
  }

  /** Applies a merge patch (RFC 7396). Throws RhyzomeError: not_found, forbidden, invalid, precondition_failed, busy, … */
  async update(
    caller: Caller,
    kind: KindDefinition,
    idOrName: string,
    patch: unknown,
    options: ChangeOptions = {},
  ): Promise<ChangeResult> {
    return this.onTarget(caller, kind, 'update', idOrName, options, async (tx, target) => {
      const { core, resource } = target;
      await this.refuseBusy(tx, core);
      const previous = resource.document();
      const document = patched(kind, previous, patch);
      await this.claimDocument(tx, target, previous, document);
      return this.enqueue(
        tx,
        caller,
        kind,
        { ...core, name: document.name },
        {
          action: 'update',
          request: { previous, document },
        },
      );
    });
  }

  /** Runs an action of a kind. */
  async act(
    caller: Caller,
    kind: KindDefinition,
    idOrName: string,
    action: string,
    body: unknown,
    options: ChangeOptions = {},
  ): Promise<ChangeResult> {
    const definition = kind.actions?.[action];
    if (!definition || !Object.hasOwn(kind.actions!, action)) throw notFound('action', action);
    const dto = definition.dto ?? EmptyBody;
    return this.onTarget(caller, kind, action, idOrName, options, async (tx, target) => {
      const { core, resource } = target;
      const input = validated<object>(dto, body ?? {}, {});
      await this.refuseBusy(tx, core);
      if (target.row.state === 'failed') throw notReady(kind, core);
      const previous = resource.document();
      const document = await definition.claim(resource, tx, input);
      if (document) await this.claimDocument(tx, target, previous, document);
      else await updateResource(tx, core, { state: 'updating' });
      const request = { body: input, ...(document && { previous, document }) };
      return this.enqueue(tx, caller, kind, core, { action, request });
    });
  }

  /** Removes a resource. A job that has not ended gives way to the removal; a second removal answers with the first's job. */
  async remove(
    caller: Caller,
    kind: KindDefinition,
    idOrName: string,
    options: ChangeOptions = {},
  ): Promise<ChangeResult> {
    return this.onTarget(caller, kind, 'delete', idOrName, options, async (tx, { core, row }) => {
      const running = await unendedJob(tx, core.tenantId, core.id);
      if (running?.action === 'delete') return this.answer(kind, row, running);
      if (row.deletion_protection) {
        throw new RhyzomeError('protected', 'deletionProtection is on; set it to false first.');
      }
      const blockers = await blockersOf(tx, core);
      if (blockers.length > 0) {
        throw new RhyzomeError('in_use', `The ${kind.name} is in use; remove what uses it first.`, { blockers });
      }
      if (running) await endSuperseded(tx, running);
      await updateResource(tx, core, { state: 'deleting', raiseGeneration: true });
      return this.enqueue(tx, caller, kind, core, { action: 'delete', request: {}, supersedes: running?.id });
    });
  }

  private async onTarget(
    caller: Caller,
    kind: KindDefinition,
    verb: string,
    idOrName: string,
    options: ChangeOptions,
    work: (tx: Tx, target: Target) => Promise<ChangeResult>,
  ): Promise<ChangeResult> {
    const { actor } = caller;
    const target: AuditTarget = { kind: kind.name, resourceName: idOrName.slice(0, 63) };
    return auditingRefusals(this.db, caller, verb, target, () =>
      this.change(caller, kind, verb, options, async (tx) => {
        const scope = inTransaction(tx, actor.tenantId);
        const found = await findResource(scope, kind, idOrName);
        if (!found) throw notFound(kind.name, idOrName);
        if (found.tenant_id === actor.tenantId)
          Object.assign(target, { resourceId: found.id, resourceName: found.name });
        authorize(actor, verb, { ...coreOf(found), isPublic: found.tenant_id !== actor.tenantId }, idOrName);
        refuseNotOffered(kind, verb);
        const row = await lockResource(tx, kind, coreOf(found));
        if (!row) throw notFound(kind.name, idOrName);
        refuseStale(options.ifMatch, row);
        const core = coreOf(row);
        const resource = await kind.make(scope).load(core);
        return work(tx, { kind, row, core, resource });
      }),
    );
  }

  /** Replay, the work, the record of its answer; all in one transaction, which a dry run rolls back. */
  private async change(
    caller: Caller,
    kind: KindDefinition,
    verb: string,
    options: ChangeOptions,
    work: (tx: Tx) => Promise<ChangeResult>,
  ): Promise<ChangeResult> {
    const { tenantId } = caller.actor;
    const mayReplay = may(caller.actor, verb, kind.name);
    let secrets: ChangeResult['secrets'];
    const answer = await runChange(this.db, tenantId, options, mayReplay, async (tx) => {
      const result = await work(tx);
      // What a dry run makes up opens nothing.
      if (!options.dryRun) secrets = result.secrets;
      return storedAnswer(result);
    });
    return { ...resultOf(answer), ...(secrets && { secrets }) };
  }

  private async claimDocument(tx: Tx, target: Target, previous: CoreDocument, document: CoreDocument): Promise<void> {
    const { core, resource } = target;
    resource.propose({ ...core, name: document.name, tags: document.tags ?? {} }, document);
    refuseInvalid(await resource.validate(false));
    const write = updateResource(tx, core, {
      name: document.name,
      tags: document.tags ?? {},
      deletionProtection: document.deletionProtection ?? false,
      state: 'updating',
      raiseGeneration: true,
    });
    await takingName(core, document.name, write);
    if (document.name !== previous.name) await refuseHeldName(tx, core, document.name);
    await claimed(resource.claim(tx, { action: 'update', previous, isRestore: false }));
  }

  /** The job, its audit row and the answer, in one statement: the last of a change. */
  private async enqueue(
    tx: Tx,
    caller: Caller,
    kind: KindDefinition,
    core: ResourceCore,
    job: { action: string; request: Record<string, unknown>; supersedes?: string },
  ): Promise<ChangeResult> {
    const values = jobValues({
      tenantId: core.tenantId,
      id: newId(),
      resourceId: core.id,
      kind: kind.name,
      resourceName: core.name,
      createdBy: caller.actor.subject,
      requestId: caller.requestId,
      ...job,
    });
    wakeWorkers();
    const audit = doneValues(caller, job.action, { kind: kind.name, resourceId: core.id, resourceName: core.name });
    const after = await sql<CoreRow>`
      with enqueued as (${tx.insertInto('job').values(values)}), audited as (${tx.insertInto('audit').values(audit)})
      ${findQuery(core, kind, core.id)}`.execute(tx);
    return this.answer(kind, after.rows[0]!, { id: values.id, state: 'queued' });
  }

  private answer(kind: KindDefinition, row: CoreRow, job: Pick<JobRow, 'id' | 'state'>): ChangeResult {
    return {
      status: 202,
      body: { ...resourceView(kind, row), job: { id: job.id, state: job.state } },
      etag: etagOf(row),
      jobId: job.id,
    };
  }

  private async refuseBusy(tx: Tx, core: ResourceCore): Promise<void> {
    const running = await unendedJob(tx, core.tenantId, core.id);
    if (!running) return;
    throw new RhyzomeError('busy', `Job ${running.id} (${running.action}) has not ended; wait for it or cancel it.`, {
      blockers: [{ kind: 'job', id: running.id, name: running.action, relation: 'running' }],
      retryAfterSeconds: 1,
    });
  }
}

/** REST has no route for it; gRPC's verbs are the same for all kinds. */
function refuseNotOffered(kind: KindDefinition, verb: string): void {
  const offered: readonly string[] = kind.changes ?? ['create', 'update', 'delete'];
  if (offered.includes(verb) || Object.hasOwn(kind.actions ?? {}, verb)) return;
  throw new RhyzomeError('method_not_allowed', `Nobody can ${verb} ${kind.plural} this way.`);
}

function notReady(kind: KindDefinition, core: ResourceCore): RhyzomeError {
  return new RhyzomeError(
    'not_ready',
    `The ${kind.name} “${core.name}” has failed; retry its job or delete it, its conditions say why.`,
  );
}

/** A reference that vanished between validation and claim is a conflict, not a fault of ours. */
async function claimed(work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (violatedForeignKey(error)) {
      throw new RhyzomeError('conflict', 'Something that it refers to was removed just now; try again.', {
        cause: error,
      });
    }
    throw error;
  }
}

/** Actions that take no body take an empty object. */
class EmptyBody {}
