/**
 * Removing all of a kind that a selector picks: each as a single removal would, in one transaction, so that its answer can
 * be kept under an idempotency key. What one is refused for does not keep the others.
 */
import { sql } from 'kysely';
import { type Actor, authorize, isAllowed, may, mayAll, reachOf } from '#libs/auth';
import { invalid, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { asMayBeSeen } from './blockers.js';
import { auditingRefusals, auditRefused, type Caller, type ChangeOptions } from './caller.js';
import type { StoredAnswer } from './idempotency.js';
import { type CoreRow, inTransaction, type KindDefinition } from './kind.js';
import { conditionsOf, type ListQuery, parseListQuery } from './list-query.js';
import { refuseNotOffered } from './permission-to-change.js';
import { isReached, reachedAs } from './readable.js';
import { listShapeOf } from './reading.js';
import { removeLocked } from './removal.js';
import { lockResource, selectFromKind } from './repository.js';
import { runChange } from './run-change.js';
import { type ProblemView, problemView } from './view.js';

/** One request removes no more. */
export const MAX_BULK = 500;

export interface BulkItem {
  id: string;
  name: string;
  /** What the removal alone would have been answered with: 202, in a dry run 200, or the problem's. */
  status: number;
  job?: { id: string; state: string };
  problem?: ProblemView;
}

export interface BulkResult {
  body: {
    items: BulkItem[];
    /** How many more match: the same request again goes on with them. */
    remaining: number;
  };
  isReplay: boolean;
}

/** Parameters of a list that say how it is shown and not what is in it. */
const showing = ['pageSize', 'pageToken', 'sort', 'count'];

/**
 * `raw` has `tagSelector`, without which nothing is removed, and equality filters as in lists. What is being removed
 * already is not picked again, nor what the caller may not read and delete. Throws RhyzomeError `invalid`, `forbidden`.
 */
export async function removeMatching(
  db: Database,
  caller: Caller,
  kind: KindDefinition,
  raw: Record<string, unknown>,
  options: ChangeOptions,
): Promise<BulkResult> {
  const { actor } = caller;
  const { tenantId } = actor;
  return auditingRefusals(db, caller, 'delete', { kind: kind.name }, async () => {
    if (!may(actor, 'delete', kind.name) || !may(actor, 'read', kind.name)) {
      throw new RhyzomeError(
        'forbidden',
        `You may not delete ${kind.plural}: the permission ${kind.name}:delete is missing.`,
      );
    }
    refuseNotOffered(kind, 'delete', actor);
    const query = selection(kind, raw);
    const replay = { authorize: (tx: Tx, stored: StoredAnswer) => stillWithinReach(tx, actor, kind, stored) };
    const answer = await runChange(db, tenantId, options, replay, async (tx): Promise<StoredAnswer> => {
      const { cores, total } = await matching(tx, actor, kind, query);
      const items: BulkItem[] = [];
      for (const core of cores) items.push(await removeOne(tx, caller, kind, core, options.dryRun ?? false));
      return { status: 200, headers: {}, body: { items, remaining: total - items.length } };
    });
    const body = answer.body as BulkResult['body'];
    for (const { id, name, problem } of answer.isReplay ? [] : body.items) {
      const target = { kind: kind.name, resourceId: id, resourceName: name };
      if (problem) await auditRefused(db, caller, 'delete', target, problem.code);
    }
    return { body, isReplay: answer.isReplay };
  });
}

function selection(kind: KindDefinition, raw: Record<string, unknown>): ListQuery {
  const given = Object.keys(raw).filter((name) => showing.includes(name));
  if (given.length > 0) {
    const message = 'is for lists; a deletion takes tagSelector and filters';
    throw invalid(given.map((parameter) => ({ parameter, code: 'unknown_parameter', message })));
  }
  const query = parseListQuery(listShapeOf(kind), raw);
  if (query.selector.length === 0) {
    const message = 'is needed, so that nobody deletes everything by mistake';
    throw invalid([{ parameter: 'tagSelector', code: 'required', message }]);
  }
  return query;
}

/** Of what was answered before, what the caller may still delete; by its tags now, or those then where it has gone. */
async function stillWithinReach(
  tx: Tx,
  actor: Actor,
  kind: KindDefinition,
  stored: StoredAnswer,
): Promise<StoredAnswer> {
  const body = stored.body as BulkResult['body'];
  const isWhole = mayAll(actor, 'delete', kind.name) && mayAll(actor, 'read', kind.name);
  if (isWhole || body.items.length === 0) return stored;
  const { tenantId } = actor;
  const jobs = body.items.flatMap(({ job }) => job?.id ?? []);
  const rows = await sql<{ id: string; tags: ResourceCore['tags']; createdBy?: string }>`
    select distinct on (id) id, tags, "createdBy" from (
      select r.id, r.tags, r.created_by as "createdBy", 0 as rank from resource r
      where r.tenant_id = ${tenantId} and r.id = any(${body.items.map(({ id }) => id)}::uuid[])
      union all
      select j.resource_id, j.resource_tags, null, 1 from job j
      where j.tenant_id = ${tenantId} and j.id = any(${jobs}::uuid[])) known
    order by id, rank`.execute(tx);
  const known = new Map(rows.rows.map((row) => [row.id, row]));
  const items = body.items.filter(({ id }) => {
    const { tags, createdBy } = known.get(id) ?? {};
    const core = { tenantId, kind: kind.name, id, tags, ...(createdBy && { createdBy }) };
    return isAllowed(actor, 'read', core) && isAllowed(actor, 'delete', core);
  });
  return { ...stored, body: { ...body, items } };
}

/** The first that match within reach, in the order of their ids, by which they are locked; and how many match in all. */
async function matching(
  tx: Tx,
  actor: Actor,
  kind: KindDefinition,
  query: ListQuery,
): Promise<{ cores: ResourceCore[]; total: number }> {
  const { tenantId } = actor;
  const within = ['read', 'delete'].map((verb) => isReached(reachOf(actor, verb, kind.name), reachedAs('r')));
  const own = sql`r.tenant_id = ${tenantId} and r.kind = ${kind.name} and r.state <> 'deleting'
    and ${sql.join(within, sql` and `)}`;
  const from = sql<CoreRow>`${selectFromKind(kind)} where ${sql.join(conditionsOf(own, query), sql` and `)}`;
  const found = await sql<{ id: string; name: string; tags: ResourceCore['tags']; createdBy: string; total: number }>`
    select id, name, tags, created_by as "createdBy", count(*) over () as total from (${from}) matching order by id limit ${MAX_BULK}`.execute(
    tx,
  );
  const cores = found.rows.map(({ id, name, tags, createdBy }) => ({
    tenantId,
    kind: kind.name,
    id,
    name,
    tags,
    createdBy,
  }));
  return { cores, total: found.rows[0]?.total ?? 0 };
}

async function removeOne(
  tx: Tx,
  caller: Caller,
  kind: KindDefinition,
  core: ResourceCore,
  isDryRun: boolean,
): Promise<BulkItem> {
  const { id, name } = core;
  try {
    authorize(caller.actor, 'delete', core, name);
    const row = await lockResource(tx, kind, core);
    // Gone since it was found: as wanted.
    if (!row) return { id, name, status: 200 };
    const { body } = await removeLocked(tx, caller, kind, row);
    return isDryRun ? { id, name, status: 200 } : { id, name, status: 202, job: body.job };
  } catch (error) {
    // These are thrown before anything is written; whatever else goes wrong ends the whole transaction.
    if (!(error instanceof RhyzomeError) || !refusals.has(error.code)) throw error;
    const shown = await asMayBeSeen(inTransaction(tx, core.tenantId, caller.actor), error);
    const problem = problemView(shown);
    return { id, name, status: problem.status, problem };
  }
}

const refusals: ReadonlySet<string> = new Set(['protected', 'in_use', 'forbidden', 'not_found']);
