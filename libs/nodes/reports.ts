/** What nodes report, written down: observed state of what is placed there, outcomes of deeds. In the tenant's scope. */

import { sql } from 'kysely';
import { isTenantId, isUuid } from '#libs/core';
import { allInOrder, committingWith, type Database } from '#libs/db';
import { lockSubject, wakeHeld, wakeJobs, wakeWaiters } from '#libs/jobs';
import type { KindRegistry, PlacementReport } from '#libs/resources';
import { DeedOutcome, type DeedResult, type Observed, Phase } from '#libs/rpc';
import { raiseUnclear } from './deeds.js';
import { countFrom, failureFrom, objectFrom } from './node-words.js';
import type { NodeSession } from './registry.js';
import { freeHeld } from './tombstones.js';

const phases: Partial<Record<Phase, PlacementReport['phase']>> = {
  [Phase.PHASE_PROGRESSING]: 'progressing',
  [Phase.PHASE_READY]: 'ready',
  [Phase.PHASE_ABSENT]: 'absent',
  [Phase.PHASE_FAILED]: 'failed',
};

const MAX_STATUS_BYTES = 16 * 1024;
const MAX_RESULT_BYTES = 64 * 1024;

/**
 * Only the latest stream of a node may write, and only if its agent has stopped for the node's last fence: one that was
 * taken over or fenced says what no longer is. Asked in the statement that
 * writes, under the lock of what is written about, so that the later stream's word always comes after.
 */
const isLatest = ({ nodeId, session }: NodeSession) =>
  sql<boolean>`exists (select from node_session s join node n on n.id = s.node_id
    where s.node_id = ${nodeId} and s.session = ${session} and s.epoch = n.epoch)`;

/** A report as rows have it; undefined: it is about nothing that can be placed. Throws RhyzomeError `malformed_request`. */
export function reportFrom({ ref, phase: told, statusJson, failure, revision, generation }: Observed) {
  const phase = phases[told];
  if (!ref || !phase || !isTenantId(ref.tenantId) || !isUuid(ref.id)) return undefined;
  return {
    tenantId: ref.tenantId,
    id: ref.id,
    kind: ref.kind,
    phase,
    status: objectFrom(statusJson, MAX_STATUS_BYTES, 'A status'),
    failure: failureFrom(failure),
    revision: countFrom(revision, 'A revision'),
    generation: countFrom(generation, 'A generation'),
  };
}

/**
 * Writes a report if it is about something placed on this node and not older than what is known; false otherwise. The
 * node's word counts for nothing else. Throws RhyzomeError `malformed_request` for what cannot be stored.
 */
export async function recordReport(
  db: Database,
  registry: KindRegistry,
  session: NodeSession,
  observed: Observed,
): Promise<boolean> {
  const { nodeId } = session;
  const report = reportFrom(observed);
  if (!report) return false;
  const { phase, status, failure, revision, generation } = report;
  const ref = { tenantId: report.tenantId, id: report.id };
  const { isNews, followUp, held } = await db.tenantTransaction(ref.tenantId, async (tx) => {
    const update = sql<{ revision: number; present: boolean; kind: string; holds: boolean }>`
      update placement set observed_revision = ${revision}, observed_generation = ${generation},
        phase = ${phase}, status = ${status ? JSON.stringify(status) : null}::jsonb,
        failure = ${failure ? JSON.stringify(failure) : null}::jsonb, observed_at = now()
      where tenant_id = ${ref.tenantId} and resource_id = ${ref.id} and node_id = ${nodeId}
        and observed_revision <= ${revision} and revision >= ${revision} and ${isLatest(session)}
        and (observed_revision, phase, status, failure) is distinct from (${revision}::bigint, ${phase}::text,
          ${status ? JSON.stringify(status) : null}::jsonb, ${failure ? JSON.stringify(failure) : null}::jsonb)
      returning revision, present, kind, exists (select from held_address h where h.tenant_id = placement.tenant_id
        and h.resource_id = placement.resource_id and h.node_id = placement.node_id) as holds`;
    const [, written] = await allInOrder([lockSubject(tx, ref.tenantId, ref.id), update.execute(tx)]);
    const row = written.rows[0];
    if (!row) return { isNews: false, held: [] };
    const isCurrent = row.revision === revision;
    const isReached = phase === 'ready' || phase === 'absent';
    if (row.holds && isReached) await freeHeld(tx, { tenantId: ref.tenantId, id: ref.id }, nodeId, revision);
    if (!row.present && isCurrent && phase === 'absent') {
      await tx
        .deleteFrom('placement')
        .where('tenant_id', '=', ref.tenantId)
        .where('resource_id', '=', ref.id)
        .where('node_id', '=', nodeId)
        .execute();
    }
    const next = await registry
      .find(row.kind)
      ?.observed?.(tx, ref.tenantId, { resourceId: ref.id, nodeId, isCurrent, phase, status, failure });
    const [, held] = await committingWith(tx, () =>
      allInOrder([wakeJobs(tx, ref.tenantId, [ref.id]), wakeWaiters(tx, ref.tenantId, ref.id)]),
    );
    return { isNews: true, followUp: next, held };
  });
  await wakeHeld(db, ref.tenantId, held);
  if (followUp) await db.tenantTransaction(ref.tenantId, followUp);
  return isNews;
}

const outcomes: Partial<Record<DeedOutcome, string>> = {
  [DeedOutcome.DEED_OUTCOME_DONE]: 'done',
  [DeedOutcome.DEED_OUTCOME_FAILED]: 'failed',
  [DeedOutcome.DEED_OUTCOME_UNCLEAR]: 'unclear',
};

/** Writes the outcome of a deed that this node was asked for. Throws RhyzomeError `malformed_request` as above. */
export async function recordDeed(db: Database, session: NodeSession, result: DeedResult): Promise<void> {
  const { nodeId } = session;
  const state = outcomes[result.outcome];
  if (!state || !isUuid(result.operationId)) return;
  const failure = failureFrom(result.failure);
  const given = objectFrom(result.resultJson, MAX_RESULT_BYTES, 'A result');
  await db.operatorTransaction(async (tx) => {
    const asked = await tx
      .selectFrom('deed')
      .select(['tenant_id', 'kind', 'resource_id', 'asked_by', 'verb'])
      .where('id', '=', result.operationId)
      .where('node_id', '=', nodeId)
      .executeTakeFirst();
    if (!asked) return;
    await lockSubject(tx, asked.tenant_id, asked.resource_id);
    const deed = await tx
      .updateTable('deed')
      .set({
        state,
        finished_at: state === 'unclear' ? null : new Date(),
        failure: failure && JSON.stringify(failure),
        result: given && JSON.stringify(given),
      })
      .where('tenant_id', '=', asked.tenant_id)
      .where('id', '=', result.operationId)
      .where('node_id', '=', nodeId)
      .where('state', '=', 'asked')
      .where(isLatest(session))
      .returning('id')
      .executeTakeFirst();
    if (!deed) return;
    if (asked.asked_by) await lockSubject(tx, asked.tenant_id, asked.asked_by);
    const { tenant_id: tenantId, kind, verb, resource_id: resourceId } = asked;
    const askedBy = asked.asked_by ?? resourceId;
    if (state === 'unclear') await raiseUnclear(tx, { tenantId, id: deed.id, nodeId, kind, resourceId, verb, askedBy });
    await wakeJobs(tx, tenantId, [...new Set([resourceId, askedBy])]);
  });
}
