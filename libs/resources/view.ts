/** What users see of rows: resources and jobs, as JSON in camelCase with RFC 3339 times in UTC. */
import { codeEntry, type ErrorCode, errorCodes, RhyzomeError, SYSTEM_TENANT } from '#libs/core';
import type { JobRow, JobStepRow } from '#libs/jobs';
import type { CoreRow, KindDefinition } from './kind.js';

export type ResourceView = Record<string, unknown> & { id: string; kind: string; name: string };

export function resourceView(kind: KindDefinition, row: CoreRow): ResourceView {
  return {
    id: row.id,
    kind: row.kind,
    name: row.name,
    tags: row.tags,
    state: row.state,
    conditions: row.conditions,
    generation: row.generation,
    observedGeneration: row.observed_generation,
    deletionProtection: row.deletion_protection,
    createdAt: row.created_at.toISOString(),
    updatedAt: row.updated_at.toISOString(),
    createdBy: row.created_by,
    ...kind.view(row),
  };
}

/** As its own tenant sees it, or others, who are told neither who made it nor what went wrong with it. */
export function resourceViewFor(tenantId: string, kind: KindDefinition, row: CoreRow): ResourceView {
  const view = resourceView(kind, row);
  const isLent = row.tenant_id !== tenantId && row.tenant_id !== SYSTEM_TENANT;
  if (!isLent) return view;
  const unshared = Object.fromEntries((kind.unshared ?? []).map((field) => [field, null]));
  return { ...view, ...unshared, createdBy: '', conditions: [] };
}

/** Strong, and new at any visible change (RFC 9110 §8.8.3). */
export function etagOf(row: Pick<CoreRow, 'version'>): string {
  return `"${row.version}"`;
}

/** If-Match (RFC 9110 §13.1.1): `*`, or a list of strong tags. */
export function refuseStale(ifMatch: string | undefined, row: Pick<CoreRow, 'version'>): void {
  if (ifMatch === undefined || ifMatch.trim() === '*') return;
  if (ifMatch.split(',').some((tag) => tag.trim() === etagOf(row))) return;
  throw new RhyzomeError('precondition_failed', 'The resource has changed since; read it again and decide anew.', {
    errors: [{ header: 'If-Match', code: 'stale', message: `does not hold; the ETag is ${etagOf(row)} now` }],
  });
}

/** The `type` of a problem: a URN, since nothing need be fetched to understand it (RFC 9457 §3.1.1). */
export function problemType(code: string): string {
  return `urn:rhyzome:problem:${code}`;
}

/** A problem as part of another answer: without what belongs to a request of its own. */
export interface ProblemView {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: string;
  retryable: boolean;
  [extension: string]: unknown;
}

export function problemView(error: RhyzomeError): ProblemView {
  const entry = codeEntry(error.code);
  const { errors, blockers, extensions } = error.details;
  return {
    type: problemType(error.code),
    title: entry.title,
    status: entry.http,
    detail: error.message,
    code: error.code,
    retryable: entry.retryable ?? false,
    ...(errors && { errors }),
    ...(blockers && { blockers }),
    ...extensions,
  };
}

interface StoredFailure {
  code: string;
  message: string;
  details?: Record<string, unknown>;
}

function failureView(failure: StoredFailure): Record<string, unknown> {
  const code = failure.code in errorCodes ? (failure.code as ErrorCode) : 'job_failed';
  const entry = codeEntry(code);
  return {
    type: problemType(code),
    title: entry.title,
    status: entry.http,
    detail: failure.message,
    code,
    retryable: true,
    ...failure.details,
  };
}

export interface JobView extends Record<string, unknown> {
  id: string;
  state: string;
}

export function jobView(row: JobRow, steps?: readonly JobStepRow[]): JobView {
  return {
    id: row.id,
    action: row.action,
    resource: { kind: row.kind, id: row.resource_id, name: row.resource_name },
    state: row.state,
    progress: row.progress,
    ...(steps && {
      steps: steps.map((step) => ({
        name: step.name,
        state: step.state,
        startedAt: step.started_at.toISOString(),
        finishedAt: step.finished_at?.toISOString() ?? null,
        message: step.message,
      })),
    }),
    message: row.message,
    cancellable: row.cancellable && row.finished_at === null,
    error: row.error ? failureView(row.error as unknown as StoredFailure) : null,
    attempts: row.attempts,
    createdAt: row.created_at.toISOString(),
    startedAt: row.started_at?.toISOString() ?? null,
    finishedAt: row.finished_at?.toISOString() ?? null,
    createdBy: row.created_by,
  };
}
