/** What jobs do with resources: run the kind's work, and settle what was claimed when they end. */
import { type ResourceCore, RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { type JobFailure, type JobHandler, type JobOutcome, type JobRow, type JobRun, wakeJobs } from '#libs/jobs';
import { probeDependants, targetsOf } from './cascade.js';
import { withCondition } from './conditions.js';
import {
  type CoreDocument,
  type CoreRow,
  inTransaction,
  type KindDefinition,
  type KindResource,
  perQuery,
} from './kind.js';
import type { KindRegistry } from './registry.js';
import { coreOf, deleteResource, lockResource, updateResource } from './repository.js';

interface StoredRequest {
  previous?: CoreDocument;
  document?: CoreDocument;
  body?: unknown;
  /** What depends on it is being removed, too, and goes first. */
  cascade?: boolean;
  /** Its create has not succeeded: there is nothing outside to change, and it holds no room there. */
  isUnmade?: boolean;
}

export class ResourceJobs implements JobHandler {
  constructor(
    private readonly db: Database,
    private readonly registry: KindRegistry,
  ) {}

  async run(row: JobRow, job: JobRun): Promise<void> {
    const kind = this.registry.get(row.kind);
    const core = { id: row.resource_id, tenantId: row.tenant_id, kind: row.kind, name: row.resource_name, tags: {} };
    const resource = await this.loaded(kind, row, core);
    if (!resource) return;
    if (row.action === 'create') return resource.create(resource.getCore(), job);
    if (row.action === 'delete') {
      const isLast = (row.request as StoredRequest).cascade === true;
      const wait = () => job.wait('what depends on it is gone', (tx) => probeDependants(tx, resource.getCore()));
      if (isLast && (await wait()) === 'gone') return;
      return resource.remove(job);
    }
    if ((row.request as StoredRequest).isUnmade) return;
    if (row.action === 'update' || (row.request as StoredRequest).document) return resource.update(job);
    if (!resource.perform) throw new RhyzomeError('job_failed', `There is no action ${row.action} any more.`);
    return resource.perform(row.action, job);
  }

  /** Undefined: what is to be removed went with something else already. */
  private async loaded(kind: KindDefinition, row: JobRow, core: ResourceCore): Promise<KindResource<any> | undefined> {
    try {
      return await kind.make(perQuery(this.db, row.tenant_id)).load(core);
    } catch (error) {
      if (row.action === 'delete' && error instanceof RhyzomeError && error.code === 'not_found') return undefined;
      throw error;
    }
  }

  async begin(tx: Tx, row: JobRow): Promise<void> {
    if (row.action !== 'create') return;
    await updateResource(tx, { tenantId: row.tenant_id, id: row.resource_id }, { state: 'provisioning' });
  }

  async held(tx: Tx, row: JobRow, { code, message }: { code: string; message: string }): Promise<void> {
    const core = { id: row.resource_id, tenantId: row.tenant_id, kind: row.kind, name: row.resource_name, tags: {} };
    const current = await lockResource(tx, this.registry.get(row.kind), core, 'no key update');
    if (!current) return;
    const conditions = withCondition(current.conditions, {
      type: 'Waiting',
      status: 'true',
      reason: code,
      message,
      observedGeneration: current.generation,
    });
    await updateResource(tx, core, { conditions });
  }

  async settle(tx: Tx, row: JobRow, outcome: JobOutcome, failure: JobFailure | null): Promise<void> {
    const kind = this.registry.get(row.kind);
    const core = { id: row.resource_id, tenantId: row.tenant_id, kind: row.kind, name: row.resource_name, tags: {} };
    const current = await lockResource(tx, kind, core);
    if (!current) return;
    const isGone =
      (row.action === 'delete' && outcome === 'succeeded') || (row.action === 'create' && outcome === 'cancelled');
    // Removals of what it depends on may wait for this one.
    const targets = row.action === 'delete' ? await targetsOf(tx, core) : [];
    if (isGone) await this.takeAway(tx, kind, current);
    else await this.settleRemaining(tx, row, current, outcome, failure);
    // Last, after the locks on what it used: whoever holds those may want these jobs.
    await wakeJobs(tx, row.tenant_id, targets);
  }

  /** It is still there: with what was asked for, or as it was. */
  private async settleRemaining(
    tx: Tx,
    row: JobRow,
    current: CoreRow,
    outcome: JobOutcome,
    failure: JobFailure | null,
  ): Promise<void> {
    const kind = this.registry.get(row.kind);
    const core = coreOf(current);
    const resource = await kind.make(inTransaction(tx, row.tenant_id)).load(coreOf(current));
    const previous = (row.request as StoredRequest).previous;
    if (outcome !== 'succeeded' && previous) {
      resource.propose({ ...coreOf(current), name: previous.name, tags: previous.tags ?? {} }, previous);
      await updateResource(tx, core, {
        name: previous.name,
        tags: previous.tags ?? {},
        deletionProtection: previous.deletionProtection ?? false,
        raiseGeneration: true,
      });
      await resource.claim(tx, { action: 'update', previous: previous, isRestore: true });
    }
    await resource.settled?.(tx, row.action, outcome);
    await this.setState(tx, row, current, outcome, failure);
  }

  private async takeAway(tx: Tx, kind: KindDefinition, current: CoreRow): Promise<void> {
    const core = coreOf(current);
    const resource = await kind.make(inTransaction(tx, core.tenantId)).load(core);
    await resource.release(tx);
    await deleteResource(tx, core);
  }

  private async setState(
    tx: Tx,
    row: JobRow,
    current: CoreRow,
    outcome: JobOutcome,
    failure: JobFailure | null,
  ): Promise<void> {
    // A removal that only waited for its dependants has done nothing.
    const hasBegun = row.action === 'create' || (row.action === 'delete' && failure?.code !== 'in_use');
    const isBroken = outcome === 'failed' && hasBegun;
    // A removal that was cancelled or an update that failed leaves what was there; a failed create stays failed.
    const wasBroken = current.conditions.some(
      (c) => (c as { type: string; status: string }).type === 'Ready' && (c as { status: string }).status === 'false',
    );
    // Nothing but its create makes it: what was changed of it meanwhile counts when that is retried.
    const isUnmade = row.action !== 'create' && current.observed_generation === 0;
    const ready = !isUnmade && (outcome === 'succeeded' || !(isBroken || wasBroken));
    const generation = await tx
      .selectFrom('resource')
      .select('generation')
      .where('tenant_id', '=', row.tenant_id)
      .where('id', '=', row.resource_id)
      .executeTakeFirstOrThrow();
    let conditions: unknown[] = current.conditions.filter((c) => (c as { type: string }).type !== 'Waiting');
    const saysWhy = isUnmade && wasBroken;
    if (!saysWhy)
      conditions = withCondition(conditions, {
        type: 'Ready',
        status: ready ? 'true' : 'false',
        reason: ready ? 'Ready' : (failure?.code ?? 'Failed'),
        message: ready ? '' : (failure?.message ?? 'The last job was not undone wholly.'),
        observedGeneration: generation.generation,
      });
    if (outcome !== 'succeeded') {
      conditions = withCondition(conditions, {
        type: 'LastChange',
        status: 'false',
        reason: outcome === 'cancelled' ? 'Cancelled' : (failure?.code ?? 'Failed'),
        message: failure?.message ?? `The ${row.action} was cancelled.`,
        observedGeneration: generation.generation,
      });
    } else conditions = conditions.filter((c) => (c as { type: string }).type !== 'LastChange');
    await updateResource(
      tx,
      { tenantId: row.tenant_id, id: row.resource_id },
      {
        state: ready ? 'ready' : 'failed',
        conditions,
        ...(ready && { observedGeneration: generation.generation }),
      },
    );
  }
}
