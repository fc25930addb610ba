/** Who calls the pipeline and with which conditions; made by the REST and gRPC adapters. */
import type { Actor } from '#libs/auth';
import { RhyzomeError } from '#libs/core';
import { type Database, type Tx } from '#libs/db';
import { auditValues, writeAudit, writeRefusal } from '#libs/events';
import { asMayBeSeen } from './blockers.js';
import type { IdempotentRequest, StoredAnswer } from './idempotency.js';
import { perQuery } from './kind.js';
import type { ResourceView } from './view.js';

export interface Caller {
  actor: Actor;
  requestId: string;
  /** Address that the request came from. */
  source?: string;
  /** W3C Trace Context, passed on as it came. */
  traceparent?: string;
}

export interface ChangeOptions {
  dryRun?: boolean;
  /** Of a removal: with all that depends on it. */
  cascade?: boolean;
  /** Value of If-Match. */
  ifMatch?: string;
  idempotency?: IdempotentRequest;
}

export interface ChangeResult {
  status: 200 | 202;
  body: ResourceView & { job?: { id: string; state: string } };
  etag: string;
  jobId?: string;
  /** Members of the first answer to a create, told once and kept nowhere: a replay comes without. */
  secrets?: Record<string, unknown>;
  /** The stored answer of an earlier request with the same key. */
  replay?: StoredAnswer;
}

export interface AuditTarget {
  kind: string;
  resourceId?: string;
  resourceName?: string;
}

/** The columns of the audit row of a change that was done. */
export function doneValues(caller: Caller, verb: string, target: AuditTarget, details?: Record<string, unknown>) {
  return auditValues({ ...auditBase(caller, verb, target), result: 'done', details });
}

/** The audit row of a change that was done, in its transaction. */
export async function auditDone(
  tx: Tx,
  caller: Caller,
  verb: string,
  target: AuditTarget,
  details?: Record<string, unknown>,
): Promise<void> {
  await writeAudit(tx, { ...auditBase(caller, verb, target), result: 'done', details });
}

/** The row of a refusal that its change went on without, in a transaction of its own. */
export async function auditRefused(
  db: Database,
  caller: Caller,
  verb: string,
  target: AuditTarget,
  code: string,
): Promise<void> {
  await writeRefusal(db, { ...auditBase(caller, verb, target), code });
}

/**
 * Runs a change and leaves the row of its refusal in a transaction of its own. Refused are 4xx that concern a permission
 * or the state of things; what is merely ill-formed is the client's own business. What stands in the way is told as far
 * as the caller may see it.
 */
export async function auditingRefusals<T>(
  db: Database,
  caller: Caller,
  verb: string,
  target: AuditTarget,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof RhyzomeError && isRefusal(error)) {
      await auditRefused(db, caller, verb, target, error.code);
    }
    throw await asMayBeSeen(perQuery(db, caller.actor.tenantId, caller.actor), error);
  }
}

const unaudited = new Set(['invalid', 'precondition_failed', 'idempotency_in_progress', 'idempotency_key_reused']);

function isRefusal(error: RhyzomeError): boolean {
  return !unaudited.has(error.code) && error.code !== 'database_unavailable' && error.code !== 'overloaded';
}

function auditBase(caller: Caller, verb: string, target: AuditTarget) {
  return {
    tenantId: caller.actor.tenantId,
    actor: caller.actor.subject,
    action: `${target.kind}.${verb}`,
    ...target,
    requestId: caller.requestId,
    source: caller.source,
  };
}

/** What is kept of a change under its idempotency key. */
export function storedAnswer(result: ChangeResult) {
  return {
    status: result.status,
    headers: { etag: result.etag, ...(result.jobId && { location: `/v1/jobs/${result.jobId}` }) },
    body: result.body,
  };
}

/** The result that an answer stands for. */
export function resultOf(answer: StoredAnswer & { isReplay: boolean }): ChangeResult {
  const { status, headers, body, isReplay } = answer;
  return {
    status: status as 200 | 202,
    body: body as ChangeResult['body'],
    etag: headers.etag ?? '',
    jobId: headers.location?.slice('/v1/jobs/'.length),
    ...(isReplay && { replay: answer }),
  };
}
