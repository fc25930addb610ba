/** What went wrong with a job: whose fault it is, what its user is told of it, and when it is tried again. */
import { RhyzomeError } from '#libs/core';
import type { JobRow } from './rows.js';

/** What a failed job shows: a problem without its HTTP parts. */
export interface JobFailure {
  code: string;
  message: string;
  details?: Record<string, unknown>;
}

/** A system that the step needs does not answer. */
export function isElsewhere(error: unknown): error is RhyzomeError {
  return error instanceof RhyzomeError && error.code === 'identity_provider_unavailable';
}

/** 250 ms doubling to 30 s, with jitter. */
export function backoffMs(failures: number): number {
  return Math.min(30_000, 250 * 2 ** (failures - 1)) * (0.5 + Math.random() / 2);
}

export function failureOf(error: RhyzomeError): JobFailure {
  return {
    code: error.code,
    message: error.message,
    ...(error.details.extensions && { details: error.details.extensions }),
  };
}

export function unknownFailure(row: JobRow): JobFailure {
  return { code: 'internal', message: `Something went wrong on our side; the logs have it under job ${row.id}.` };
}

/** A job whose workers die with it would take every worker down, one after the other. */
export function tooManyCrashes(row: JobRow): RhyzomeError {
  return new RhyzomeError(
    'job_failed',
    `${row.crashes} workers died in the same step of the job, one after the other. Ask your administrator before you retry it.`,
  );
}
