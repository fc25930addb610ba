/**
 * Removing all of a kind that a selector picks: each as a single removal would, in one transaction, so that its answer can
 * be kept under an idempotency key. What one is refused for does not keep the others.
 */
import { sql } from 'kysely';
import { authorize, may } from '#libs/auth';
import { invalid, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { auditingRefusals, auditRefused, type Caller, type ChangeOptions } from './caller.js';
import type { StoredAnswer } from './idempotency.js';
import type { CoreRow, KindDefinition } from './kind.js';
import { conditionsOf, type ListQuery, parseListQuery } from './list-query.js';
import { refuseNotOffered } from './permission-to-change.js';
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
 * already is not picked again. Throws RhyzomeError `invalid`, `forbidden`.
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
        `You may not delete ${kind.plural}: the scope ${kind.name}:delete is missing.`,
      );
    }
    refuseNotOffered(kind, 'delete', actor);
    const query = selection(kind, raw);
    const answer = await runChange(db, tenantId, options, true, async (tx): Promise<StoredAnswer> => {
      const { cores, total } = await matching(tx, kind, tenantId, query);
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

/** The first that match, in the order of their ids, by which they are locked; and how many match in all. */
async function matching(
  tx: Tx,
  kind: KindDefinition,
  tenantId: string,
  query: ListQuery,
): Promise<{ cores: ResourceCore[]; total: number }> {
  const own = sql`r.tenant_id = ${tenantId} and r.kind = ${kind.name} and r.state <> 'deleting'`;
  const from = sql<CoreRow>`${selectFromKind(kind)} where ${sql.join(conditionsOf(own, query), sql` and `)}`;
  const found = await sql<{ id: string; name: string; tags: ResourceCore['tags']; total: number }>`
    select id, name, tags, count(*) over () as total from (${from}) matching order by id limit ${MAX_BULK}`.execute(tx);
  const cores = found.rows.map(({ id, name, tags }) => ({ tenantId, kind: kind.name, id, name, tags }));
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
    const problem = problemView(error);
    return { id, name, status: problem.status, problem };
  }
}

const refusals: ReadonlySet<string> = new Set(['protected', 'in_use', 'forbidden', 'not_found']);
