/**
 * Opaque page tokens: where the last page ended, bound to tenant and query by an HMAC (RFC 2104) with a key that all
 * replicas share, so that a changed one, or one of another query or tenant, is refused.
 */
import { createHmac, timingSafeEqual } from 'node:crypto';
import { RhyzomeError } from '#libs/core';

const MAC_BYTES = 16;
const MAX_LENGTH = 1024;

/** `position`: the sort key of the last row and its id. `query`: everything that the page depends on, as text. */
export function encodePageToken(key: Buffer, query: string, position: readonly string[]): string {
  const payload = Buffer.from(JSON.stringify(position));
  return Buffer.concat([mac(key, query, payload), payload]).toString('base64url');
}

/** Throws RhyzomeError `invalid`. */
export function decodePageToken(key: Buffer, query: string, token: string): [string, string] {
  const bytes = token.length <= MAX_LENGTH && /^[A-Za-z0-9_-]+$/.test(token) ? Buffer.from(token, 'base64url') : null;
  if (bytes && bytes.length > MAC_BYTES && bytes.toString('base64url') === token) {
    const payload = bytes.subarray(MAC_BYTES);
    if (timingSafeEqual(bytes.subarray(0, MAC_BYTES), mac(key, query, payload))) {
      return JSON.parse(payload.toString()) as [string, string];
    }
  }
  throw new RhyzomeError('invalid', 'The page token is not one that this query gave.', {
    errors: [
      {
        parameter: 'pageToken',
        code: 'invalid_value',
        message: 'must be the nextPageToken of the same query; leave it out to start at the first page',
      },
    ],
  });
}

function mac(key: Buffer, query: string, payload: Buffer): Buffer {
  const hmac = createHmac('sha256', key);
  return hmac.update(`${query.length}:${query}`).update(payload).digest().subarray(0, MAC_BYTES);
}
