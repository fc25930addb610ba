/**
 * Removing a resource with all of the tenant's own that depends on it, directly or not. Every one gets a job of its own:
 * those that nothing depends on go at once, the others wait until their dependants are gone.
 */
import { sql } from 'kysely';
import { type Actor, isAllowed } from '#libs/auth';
import { type Blocker, notFound, type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import { hiddenWords } from './blockers.js';
import type { Caller, ChangeOptions, ChangeResult } from './caller.js';
import type { KindDefinition } from './kind.js';
import type { KindRegistry } from './registry.js';
import { removeLocked } from './removal.js';
import { lockResource } from './repository.js';
import { refuseStale } from './view.js';

/** A request removes no more than this, beside its target. */
export const MAX_CASCADE = 200;
const MAX_NAMED = 20;

/** One that goes with the target, as the answer tells of it. */
export interface Cascaded {
  kind: string;
  id: string;
  name: string;
  job?: { id: string; state: string };
}

interface Dependant {
  kind: string;
  id: string;
  name: string;
  tags: ResourceCore['tags'];
  created_by: string;
  deletion_protection: boolean;
  relation: string;
}

/** Thrown when something came to depend on what is removed while the rows were being locked: the same again may work. */
export class CascadeChanged extends Error {
  override readonly name = 'CascadeChanged';
}

/**
 * In one transaction. Rows are locked from the outermost dependant to the target: a job that ends a dependant locks that
 * and then what it depended on, too. Throws RhyzomeError `forbidden`, `protected`, `in_use`, `precondition_failed`, and
 * CascadeChanged.
 */
export async function removeWithDependants(
  tx: Tx,
  caller: Caller,
  registry: KindRegistry,
  kind: KindDefinition,
  target: ResourceCore,
  options: Pick<ChangeOptions, 'ifMatch' | 'dryRun'>,
): Promise<ChangeResult> {
  const dependants = await dependantsOf(tx, target);
  if (dependants.length > MAX_CASCADE) {
    throw new RhyzomeError('in_use', `More than ${MAX_CASCADE} resources depend on it; remove them in parts.`, {
      blockers: named(dependants),
    });
  }
  await lockInOrder(tx, target.tenantId, [...dependants.map(({ id }) => id), target.id]);
  const row = await lockResource(tx, kind, target);
  if (!row) throw notFound(kind.name, target.name);
  refuseStale(options.ifMatch, row);
  const locked = await dependantsOf(tx, target);
  const known = new Set(dependants.map(({ id }) => id));
  if (locked.some(({ id }) => !known.has(id))) throw new CascadeChanged();
  refuseUnremovable(caller, registry, locked);
  const cascade: Cascaded[] = [];
  for (const dependant of locked) cascade.push(await removeDependant(tx, caller, registry, target.tenantId, dependant));
  const result = await removeLocked(tx, caller, kind, row, { afterDependants: cascade.length > 0 });
  const told = options.dryRun ? cascade.map(({ job: _job, ...rest }) => rest) : cascade;
  return { ...result, body: { ...result.body, cascade: told } };
}

async function removeDependant(
  tx: Tx,
  caller: Caller,
  registry: KindRegistry,
  tenantId: string,
  dependant: Dependant,
): Promise<Cascaded> {
  const { kind, id, name, tags } = dependant;
  const definition = registry.get(kind);
  const row = await lockResource(tx, definition, { tenantId, kind, id, name, tags });
  if (!row) throw new CascadeChanged();
  const { body } = await removeLocked(tx, caller, definition, row, { afterDependants: true });
  return { kind, id, name, job: body.job };
}

/** All that depends on a resource, however far, the outermost first; one more than may be. */
async function dependantsOf(tx: Tx, target: ResourceCore): Promise<Dependant[]> {
  const result = await sql<Dependant>`
    with recursive above (id, relation, depth) as (
      select d.resource_id, d.relation, 1 from dependency d
      where d.tenant_id = ${target.tenantId} and d.target_tenant_id = ${target.tenantId} and d.target_id = ${target.id}
      union
      select d.resource_id, d.relation, a.depth + 1 from above a join dependency d
        on d.tenant_id = ${target.tenantId} and d.target_tenant_id = ${target.tenantId} and d.target_id = a.id)
    select r.kind, r.id, r.name, r.tags, r.created_by, r.deletion_protection, min(a.relation) as relation
    from above a join resource r on r.tenant_id = ${target.tenantId} and r.id = a.id
    group by r.tenant_id, r.id order by max(a.depth) desc, r.id limit ${MAX_CASCADE + 1}`.execute(tx);
  return result.rows;
}

async function lockInOrder(tx: Tx, tenantId: string, ids: readonly string[]): Promise<void> {
  await sql`select 1 from resource where tenant_id = ${tenantId} and id = any(${ids}::uuid[])
    order by array_position(${ids}::uuid[], id) for update`.execute(tx);
}

/** All of it, or nothing. */
function refuseUnremovable(caller: Caller, registry: KindRegistry, dependants: readonly Dependant[]): void {
  const { actor } = caller;
  const fixed = dependants.filter(({ kind }) => !(registry.get(kind).changes ?? ['delete']).includes('delete'));
  if (fixed.length > 0) {
    throw new RhyzomeError('in_use', `What depends on it is not yours to delete.`, { blockers: named(fixed) });
  }
  refuseOutOfReach(actor, dependants);
  const protectedOnes = dependants.filter((dependant) => dependant.deletion_protection);
  if (protectedOnes.length > 0) {
    throw new RhyzomeError('protected', 'deletionProtection is on for what depends on it; set it to false first.', {
      blockers: named(protectedOnes),
    });
  }
}

/** What is not the caller's to delete, named as far as he may read it; told to whoever may read none of it, too. */
function refuseOutOfReach(actor: Actor, dependants: readonly Dependant[]): void {
  const { tenantId } = actor;
  const isWithin = (verb: string, { kind, id, name, tags, created_by: createdBy }: Dependant) =>
    isAllowed(actor, verb, { tenantId, kind, id, name, tags, createdBy });
  const readable = dependants.filter((dependant) => isWithin('read', dependant));
  const fixed = readable.filter((dependant) => !isWithin('delete', dependant));
  const hidden = dependants.length - readable.length;
  if (fixed.length === 0 && hidden === 0) return;
  const kinds = [...new Set(fixed.map(({ kind }) => `${kind}:delete`))].join(', ');
  const why = fixed.length > 0 ? `${kinds} is missing for some of it.` : 'it is not yours.';
  throw new RhyzomeError(
    'forbidden',
    `You may not delete all that depends on it: ${why}${hidden > 0 ? ` ${hiddenWords(hidden)}` : ''}`,
    { blockers: named(fixed) },
  );
}

function named(dependants: readonly Dependant[]): Blocker[] {
  return dependants.slice(0, MAX_NAMED).map(({ kind, id, name, relation }) => ({ kind, id, name, relation }));
}

/**
 * A probe for the job of the target: waits while something still depends on it. `gone`: it went with one of them.
 * Throws RhyzomeError `in_use` when the removal of a dependant has ended without success.
 */
export async function probeDependants(
  tx: Tx,
  core: Pick<ResourceCore, 'tenantId' | 'id'>,
): Promise<'free' | 'gone' | Waiting> {
  const result = await sql<Blocker & { job: string | null; state: string | null; error: { message?: string } | null }>`
    select r.kind, r.id, r.name, d.relation, j.id as job, j.state, j.error
    from dependency d join resource r on r.tenant_id = d.tenant_id and r.id = d.resource_id
    left join lateral (select id, state, error from job
      where tenant_id = r.tenant_id and resource_id = r.id and action = 'delete' order by created_at desc limit 1) j on true
    where d.tenant_id = ${core.tenantId} and d.target_tenant_id = ${core.tenantId} and d.target_id = ${core.id}
    order by r.name limit ${MAX_NAMED}`.execute(tx);
  const stuck = result.rows.find(({ state }) => state === null || ['failed', 'cancelled', 'succeeded'].includes(state));
  if (stuck) {
    const { kind, id, name, relation, job, state, error } = stuck;
    const why = error?.message ? `: ${error.message}` : '.';
    throw new RhyzomeError('in_use', `Deleting the ${kind} “${name}” has ${state ?? 'not begun'} (job ${job})${why}`, {
      extensions: { blockers: [{ kind, id, name, relation }] },
    });
  }
  if (result.rows.length > 0) {
    const names = [...new Set(result.rows.map(({ kind, name }) => `${kind} “${name}”`))];
    return new Waiting(
      `waits until ${names.slice(0, 5).join(', ')}${names.length > 5 ? ' and others are' : ' is'} gone`,
    );
  }
  const here = await tx
    .selectFrom('resource')
    .select('id')
    .where('tenant_id', '=', core.tenantId)
    .where('id', '=', core.id)
    .executeTakeFirst();
  return here ? 'free' : 'gone';
}

/** What a resource depends on; to be read before its edges are dropped. */
export async function targetsOf(tx: Tx, core: Pick<ResourceCore, 'tenantId' | 'id'>): Promise<string[]> {
  const rows = await tx
    .selectFrom('dependency')
    .select('target_id')
    .distinct()
    .where('tenant_id', '=', core.tenantId)
    .where('resource_id', '=', core.id)
    .where('target_tenant_id', '=', core.tenantId)
    .execute();
  return rows.map(({ target_id }) => target_id);
}
