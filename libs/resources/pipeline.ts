/**
 * The one way from a request to a change, behind REST and gRPC: authorize, validate, and in one transaction write the
 * resource, what it claims, its job, its audit row and the idempotency record. Knows no kind by name and no protocol.
 */

import { authorize, forbidden, may } from '#libs/auth';
import { newId, notFound, type ResourceCore, RhyzomeError } from '#libs/core';
import { allInOrder, type Database, type Tx, violatedForeignKey } from '#libs/db';
import { unendedJob } from '#libs/jobs';
import { type BulkResult, removeMatching } from './bulk-removal.js';
import {
  type AuditTarget,
  auditingRefusals,
  type Caller,
  type ChangeOptions,
  type ChangeResult,
  resultOf,
  storedAnswer,
} from './caller.js';
import { CascadeChanged, removeWithDependants } from './cascade.js';
import { patched, readOnlyOf, refuseInvalid, validated } from './change-document.js';
import { enqueue } from './enqueue.js';
import type { StoredAnswer } from './idempotency.js';
import { type CoreDocument, type CoreRow, inTransaction, type KindDefinition, type KindResource } from './kind.js';
import { refuseHeldName, takingName } from './names.js';
import { authorizeReplay, authorizeTags, notReady, refuseNotOffered } from './permission-to-change.js';
import type { KindRegistry } from './registry.js';
import { removeLocked } from './removal.js';
import { coreOf, findResource, insertResource, lockResource, updateResource } from './repository.js';
import { runChange } from './run-change.js';
import { refuseStale } from './view.js';

interface Target {
  kind: KindDefinition;
  row: CoreRow;
  core: ResourceCore;
  resource: KindResource<any>;
}

export class Pipeline {
  constructor(
    private readonly db: Database,
    private readonly registry: KindRegistry,
    /** After a change of what permissions are decided on; other processes hear of it from the database. */
    private readonly accessChanged: (tenantId: string) => void = () => undefined,
  ) {}

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
      if (!may(actor, 'create', kind.name)) throw forbidden(actor, 'create', kind.name);
      refuseNotOffered(kind, 'create', actor);
      const document = validated<CoreDocument>(kind.dto.create, body, { readOnly: readOnlyOf(kind) });
      const { tenantId, subject: createdBy } = actor;
      const target = { tenantId, kind: kind.name, tags: document.tags ?? {}, createdBy };
      const permission = authorizeTags(actor, 'create', target);
      const { tags } = target;
      const core: ResourceCore = { id: newId(), tenantId, kind: kind.name, name: document.name, tags };
      return this.change(caller, kind, 'create', name ?? '', options, async (tx) => {
        const resource = kind.make(inTransaction(tx, actor.tenantId, actor));
        resource.propose(core, document);
        refuseInvalid(await resource.validate(true));
        await allInOrder([
          takingName(core, core.name, insertResource(tx, permission, core, document, actor.subject)),
          refuseHeldName(tx, core, core.name),
          claimed(resource.claim(tx, { action: 'create', isRetry: false })),
        ]);
        const commits = !options.dryRun && !options.idempotency;
        const result = await enqueue(tx, caller, kind, core, { action: 'create', request: {} }, { commits, document });
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
      await this.refuseBusy(tx, target);
      const previous = resource.document();
      const document = patched(kind, previous, patch);
      authorizeTags(caller.actor, 'update', { ...core, tags: document.tags ?? {} });
      await this.claimDocument(tx, target, previous, document);
      return enqueue(
        tx,
        caller,
        kind,
        { ...core, name: document.name, tags: document.tags ?? {} },
        {
          action: 'update',
          request: { previous, document, ...(target.row.observed_generation === 0 && { isUnmade: true }) },
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
      await this.refuseBusy(tx, target);
      if (target.row.state === 'failed') throw notReady(kind, core);
      const previous = resource.document();
      const document = await definition.claim(resource, tx, input, { isRetry: false });
      if (document) await this.claimDocument(tx, target, previous, document);
      else await updateResource(tx, core, { state: 'updating' });
      const request = { body: input, ...(document && { previous, document }) };
      const result = await enqueue(tx, caller, kind, core, { action, request });
      return definition.secrets ? { ...result, secrets: resource.secrets?.() } : result;
    });
  }

  /**
   * Removes a resource; with `cascade`, all that depends on it, too. A job that has not ended gives way to the removal; a
   * second removal answers with the first's job.
   */
  async remove(
    caller: Caller,
    kind: KindDefinition,
    idOrName: string,
    options: ChangeOptions = {},
  ): Promise<ChangeResult> {
    if (options.cascade) return this.removeAll(caller, kind, idOrName, options);
    return this.onTarget(caller, kind, 'delete', idOrName, options, (tx, { row }) =>
      removeLocked(tx, caller, kind, row),
    );
  }

  /** With all that depends on it. Tried again when something came to depend on it just then. */
  private async removeAll(
    caller: Caller,
    kind: KindDefinition,
    idOrName: string,
    options: ChangeOptions,
  ): Promise<ChangeResult> {
    for (let tries = 1; ; tries++) {
      try {
        return await this.onFound(caller, kind, 'delete', idOrName, options, (tx, core) =>
          removeWithDependants(tx, caller, this.registry, kind, core, options),
        );
      } catch (error) {
        if (!(error instanceof CascadeChanged)) throw error;
        if (tries === 3) throw new RhyzomeError('conflict', 'What depends on it keeps changing; try again.');
      }
    }
  }

  /** Removes all that a selector picks, each as `remove` does. Throws RhyzomeError `invalid`, `forbidden`. */
  async removeMatching(
    caller: Caller,
    kind: KindDefinition,
    raw: Record<string, unknown>,
    options: ChangeOptions = {},
  ): Promise<BulkResult> {
    const result = await removeMatching(this.db, caller, kind, raw, options);
    if (kind.decidesAccess) this.accessChanged(caller.actor.tenantId);
    return result;
  }

  private async onTarget(
    caller: Caller,
    kind: KindDefinition,
    verb: string,
    idOrName: string,
    options: ChangeOptions,
    work: (tx: Tx, target: Target) => Promise<ChangeResult>,
  ): Promise<ChangeResult> {
    return this.onFound(caller, kind, verb, idOrName, options, async (tx, found) => {
      const row = await lockResource(tx, kind, found);
      if (!row) throw notFound(kind.name, idOrName);
      refuseStale(options.ifMatch, row);
      const core = coreOf(row);
      const resource = await kind.make(inTransaction(tx, core.tenantId, caller.actor)).load(core);
      return work(tx, { kind, row, core, resource });
    });
  }

  /** Finds the resource and asks for the permission; `work` locks what it needs. */
  private async onFound(
    caller: Caller,
    kind: KindDefinition,
    verb: string,
    idOrName: string,
    options: ChangeOptions,
    work: (tx: Tx, core: ResourceCore) => Promise<ChangeResult>,
  ): Promise<ChangeResult> {
    const { actor } = caller;
    const target: AuditTarget = { kind: kind.name, resourceName: idOrName.slice(0, 63) };
    return auditingRefusals(this.db, caller, verb, target, () =>
      this.change(caller, kind, verb, idOrName, options, async (tx) => {
        const found = await findResource(inTransaction(tx, actor.tenantId), kind, idOrName);
        if (!found) throw notFound(kind.name, idOrName);
        if (found.tenant_id === actor.tenantId)
          Object.assign(target, { resourceId: found.id, resourceName: found.name });
        authorize(actor, verb, { ...coreOf(found), isPublic: found.tenant_id !== actor.tenantId }, idOrName);
        refuseNotOffered(kind, verb, actor);
        return work(tx, coreOf(found));
      }),
    );
  }

  /** Replay, the work, the record of its answer; all in one transaction, which a dry run rolls back. */
  private async change(
    caller: Caller,
    kind: KindDefinition,
    verb: string,
    asked: string,
    options: ChangeOptions,
    work: (tx: Tx) => Promise<ChangeResult>,
  ): Promise<ChangeResult> {
    const { actor } = caller;
    const replay = may(actor, verb, kind.name) && {
      authorize: (tx: Tx, stored: StoredAnswer) => authorizeReplay(tx, actor, verb, stored, asked),
    };
    let secrets: ChangeResult['secrets'];
    const answer = await runChange(this.db, actor.tenantId, options, replay, async (tx) => {
      const result = await work(tx);
      // What a dry run makes up opens nothing.
      if (!options.dryRun) secrets = result.secrets;
      return storedAnswer(result);
    });
    if (kind.decidesAccess) this.accessChanged(actor.tenantId);
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

  private async refuseBusy(tx: Tx, { kind, core, row }: Target): Promise<void> {
    const running = await unendedJob(tx, core.tenantId, core.id);
    // Without a job of its own it comes or goes by that of what it belongs to, which must find it as it left it.
    const moves = ['pending', 'provisioning', 'deleting'].includes(row.state);
    if (!running && moves)
      throw new RhyzomeError('busy', `The ${kind.name} is ${row.state}.`, { retryAfterSeconds: 1 });
    if (!running) return;
    throw new RhyzomeError('busy', `Job ${running.id} (${running.action}) has not ended; wait for it or cancel it.`, {
      blockers: [{ kind: 'job', id: running.id, name: running.action, relation: 'running' }],
      retryAfterSeconds: 1,
    });
  }
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
