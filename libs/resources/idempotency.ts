/**
 * Idempotency-Key: the answer of a change is kept in the transaction of what it did, per tenant and subject, for 24 h.
 * While the first request is under way, an advisory lock of its transaction tells the second one.
 */
import { createHash } from 'node:crypto';
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';

export interface IdempotentRequest {
  subject: string;
  key: string;
  /** Of method, path, query and body. */
  hash: Buffer;
}

export interface StoredAnswer {
  status: number;
  headers: Record<string, string>;
  body: unknown;
}

const keyShape = /^[\x21-\x7e]{1,255}$/;

/** Checks a key as it was sent; throws RhyzomeError `invalid`. */
export function checkIdempotencyKey(key: string): void {
  if (keyShape.test(key)) return;
  throw new RhyzomeError('invalid', 'The Idempotency-Key is not well-formed.', {
    errors: [
      {
        header: 'Idempotency-Key',
        code: 'invalid_format',
        message: 'must be 1-255 printable ASCII characters without spaces',
      },
    ],
  });
}

export function hashRequest(...parts: readonly unknown[]): Buffer {
  return createHash('sha256').update(JSON.stringify(parts)).digest();
}

/** The stored answer of the same request, undefined on its first time. Throws `idempotency_*`. */
export async function replayOrBegin(
  tx: Tx,
  tenantId: string,
  request: IdempotentRequest,
): Promise<StoredAnswer | undefined> {
  const lock = await sql<{ ok: boolean }>`
    select pg_try_advisory_xact_lock(hashtextextended(${`${tenantId}/${request.subject}/${request.key}`}, 1)) as ok`.execute(
    tx,
  );
  if (!lock.rows[0]?.ok) {
    throw new RhyzomeError(
      'idempotency_in_progress',
      'The first request with this key is still under way; ask again.',
      {
        retryAfterSeconds: 1,
      },
    );
  }
  const known = await tx
    .selectFrom('idempotency')
    .select(['request_hash', 'status', 'headers', 'body'])
    .where('tenant_id', '=', tenantId)
    .where('subject', '=', request.subject)
    .where('key', '=', request.key)
    .where('created_at', '>', sql<Date>`now() - interval '24 hours'`)
    .executeTakeFirst();
  if (!known) return undefined;
  if (!known.request_hash.equals(request.hash)) {
    throw new RhyzomeError('idempotency_key_reused', 'This key was used for another request; take a new one.', {
      errors: [{ header: 'Idempotency-Key', code: 'invalid_value', message: 'was used for another request' }],
    });
  }
  return { status: known.status, headers: known.headers as Record<string, string>, body: known.body };
}

/** Keeps the answer; part of the change's own transaction. */
export async function keepAnswer(
  tx: Tx,
  tenantId: string,
  request: IdempotentRequest,
  answer: StoredAnswer,
): Promise<void> {
  const values = {
    request_hash: request.hash,
    status: answer.status,
    headers: JSON.stringify(answer.headers),
    body: JSON.stringify(answer.body),
  };
  await tx
    .insertInto('idempotency')
    .values({ tenant_id: tenantId, subject: request.subject, key: request.key, ...values })
    // Only a record past its 24 hours can stand here.
    .onConflict((oc) =>
      oc.columns(['tenant_id', 'subject', 'key']).doUpdateSet({ ...values, created_at: sql<Date>`now()` }),
    )
    .execute();
}
