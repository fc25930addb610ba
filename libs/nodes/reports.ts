/** What nodes report, written down: observed state of what is placed there, outcomes of deeds. In the tenant's scope. */

import { sql } from 'kysely';
import { isTenantId, isUuid } from '#libs/core';
import type { Database } from '#libs/db';
import { lockSubject, wakeJobs } from '#libs/jobs';
import type { KindRegistry, PlacementReport } from '#libs/resources';
import { DeedOutcome, type DeedResult, type Observed, Phase } from '#libs/rpc';

const phases: Partial<Record<Phase, PlacementReport['phase']>> = {
  [Phase.PHASE_PROGRESSING]: 'progressing',
  [Phase.PHASE_READY]: 'ready',
  [Phase.PHASE_ABSENT]: 'absent',
  [Phase.PHASE_FAILED]: 'failed',
};

const MAX_STATUS_BYTES = 16 * 1024;
const MAX_MESSAGE_CHARACTERS = 1_000;

function parseStatus(json: string): Record<string, unknown> | null {
  if (json === '' || json.length > MAX_STATUS_BYTES) return null;
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null;
  } catch {
    // A node that sends no JSON says nothing; its phase still counts.
    return null;
  }
}

/**
 * Writes a report if it is about something placed on this node and not older than what is known; false otherwise. The
 * node's word counts for nothing else.
 */
export async function recordReport(
  db: Database,
  registry: KindRegistry,
  nodeId: string,
  observed: Observed,
): Promise<boolean> {
  const ref = observed.ref;
  const phase = phases[observed.phase];
  if (!ref || !phase || !isTenantId(ref.tenantId) || !isUuid(ref.id)) return false;
  const status = parseStatus(observed.statusJson);
  const failure = observed.failure
    ? { code: observed.failure.code.slice(0, 63), message: observed.failure.message.slice(0, MAX_MESSAGE_CHARACTERS) }
    : null;
  const { isNews, followUp } = await db.tenantTransaction(ref.tenantId, async (tx) => {
    await lockSubject(tx, ref.tenantId, ref.id);
    const revision = Number(observed.revision);
    const written = await sql<{ revision: number; present: boolean; kind: string }>`
      update placement set observed_revision = ${revision}, observed_generation = ${Number(observed.generation)},
        phase = ${phase}, status = ${status ? JSON.stringify(status) : null}::jsonb,
        failure = ${failure ? JSON.stringify(failure) : null}::jsonb, observed_at = now()
      where tenant_id = ${ref.tenantId} and resource_id = ${ref.id} and node_id = ${nodeId}
        and observed_revision <= ${revision} and revision >= ${revision}
        and (observed_revision, phase, status, failure) is distinct from (${revision}::bigint, ${phase}::text,
          ${status ? JSON.stringify(status) : null}::jsonb, ${failure ? JSON.stringify(failure) : null}::jsonb)
      returning revision, present, kind`.execute(tx);
    const row = written.rows[0];
    if (!row) return { isNews: false };
    const isCurrent = row.revision === revision;
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
    await wakeJobs(tx, ref.tenantId, [ref.id]);
    return { isNews: true, followUp: next };
  });
  if (followUp) await db.tenantTransaction(ref.tenantId, followUp);
  return isNews;
}

const outcomes: Partial<Record<DeedOutcome, string>> = {
  [DeedOutcome.DEED_OUTCOME_DONE]: 'done',
  [DeedOutcome.DEED_OUTCOME_FAILED]: 'failed',
  [DeedOutcome.DEED_OUTCOME_UNCLEAR]: 'unclear',
};

/** Writes the outcome of a deed that this node was asked for. */
export async function recordDeed(db: Database, nodeId: string, result: DeedResult): Promise<void> {
  const state = outcomes[result.outcome];
  if (!state || !isUuid(result.operationId)) return;
  await db.operatorTransaction(async (tx) => {
    const asked = await tx
      .selectFrom('deed')
      .select(['tenant_id', 'resource_id'])
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
        failure: result.failure
          ? JSON.stringify({
              code: result.failure.code.slice(0, 63),
              message: result.failure.message.slice(0, MAX_MESSAGE_CHARACTERS),
            })
          : null,
      })
      .where('tenant_id', '=', asked.tenant_id)
      .where('id', '=', result.operationId)
      .where('node_id', '=', nodeId)
      .where('state', '=', 'asked')
      .returning('id')
      .executeTakeFirst();
    if (deed) await wakeJobs(tx, asked.tenant_id, [asked.resource_id]);
  });
}
