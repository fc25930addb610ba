/** Tells a database that is away from a query that is wrong, and names the constraint that was hit. */
import { RhyzomeError } from '#libs/core';
import { isStalePlan } from './prepared.js';

/** What pg puts on its errors (PostgreSQL protocol, ErrorResponse fields). */
export interface PgError extends Error {
  code: string;
  constraint?: string;
  table?: string;
  detail?: string;
}

const awayStates = new Set(['57P01', '57P02', '57P03', '53300', '08000', '08001', '08003', '08004', '08006']);
const awayErrnos = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ENOENT',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EACCES',
]);
const awayMessages =
  /Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error|connection is insecure|not queryable|Cannot use a pool after/i;

/** True when the server could not be reached or went away; nothing is known about the query then. */
export function isDatabaseAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = (error as Partial<PgError>).code;
  if (code !== undefined && (awayStates.has(code) || awayErrnos.has(code))) return true;
  if (error instanceof AggregateError) return error.errors.some(isDatabaseAway);
  return awayMessages.test(error.message);
}

/** 55P03 lock_timeout, 57014 statement_timeout, 40001/40P01 serialization and deadlock: the same may work later. */
function isOverload(code: string | undefined): boolean {
  return code === '55P03' || code === '57014' || code === '40001' || code === '40P01';
}

/** Turns the database's absence into 503 and leaves every other error as it is. */
export function translateDatabaseError(error: unknown): unknown {
  if (error instanceof RhyzomeError) return error;
  if (isDatabaseAway(error)) {
    return new RhyzomeError('database_unavailable', 'The database is away; try again shortly.', {
      retryAfterSeconds: 2,
      cause: error,
    });
  }
  if (isStalePlan(error)) {
    return new RhyzomeError('overloaded', 'The database was upgraded just now; try again.', {
      retryAfterSeconds: 1,
      cause: error,
    });
  }
  if (error instanceof Error && isOverload((error as Partial<PgError>).code)) {
    return new RhyzomeError('overloaded', 'The database could not answer in time; try again.', {
      retryAfterSeconds: 1,
      cause: error,
    });
  }
  return quotaRefusal(error) ?? error;
}

/** SQLSTATE of 0008_quotas.sql, with the numbers as detail. */
const QUOTA_EXCEEDED = 'RZ001';

/** What is told of a charge that the database refused. */
function quotaRefusal(error: unknown): RhyzomeError | undefined {
  const { code, detail } = (error ?? {}) as Partial<PgError>;
  if (code !== QUOTA_EXCEEDED || detail === undefined) return undefined;
  const { quota, max, used, asked, left } = JSON.parse(detail) as Record<string, string | number>;
  return new RhyzomeError(
    'quota_exceeded',
    `The quota “${quota}” is ${max}: ${used} are used, so ${left} are left, and this takes ${asked} more. ` +
      `Delete what is no longer needed, or ask your administrator for more.`,
    { extensions: { quota, max, used, asked, left }, cause: error },
  );
}

/** Name of the unique constraint or index that a write hit (SQLSTATE 23505), else undefined. */
export function violatedUnique(error: unknown): string | undefined {
  const e = error as Partial<PgError> | undefined;
  return e?.code === '23505' ? e.constraint : undefined;
}

/** Name of the foreign key that a write hit (SQLSTATE 23503), else undefined. */
export function violatedForeignKey(error: unknown): string | undefined {
  const e = error as Partial<PgError> | undefined;
  return e?.code === '23503' ? e.constraint : undefined;
}

/**
 * True when the same transaction, done again, can succeed at once: PostgreSQL ended it because it and another waited for each other
 * (SQLSTATE 40P01), or because a migration had just changed what a prepared statement answers.
 */
export function isWorthRepeating(error: unknown): boolean {
  const { code, cause } = (error ?? {}) as Partial<PgError>;
  return code === '40P01' || isStalePlan(error) || (cause !== undefined && isWorthRepeating(cause));
}
