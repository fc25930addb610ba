/** Sets of public keys as issuers publish them (RFC 7517, section 5): where they may be read, how much of it, and what is in it. */
import { calculateJwkThumbprint, type JWK } from 'jose';

/** As an issuer gives them. */
export function keysAnswer(body: string): Response {
  return new Response(body, { status: 200, headers: { 'content-type': 'application/json' } });
}

/** RFC 7638, over the public members only. */
export function thumbprintOf(key: JWK): Promise<string> {
  return calculateJwkThumbprint(key);
}

/** Of all keys that have one: a key that nobody can use must not make the others useless. */
export async function thumbprintsOf(jwks: { keys?: unknown } | null): Promise<Set<string>> {
  const isSet = Array.isArray(jwks?.keys) && jwks.keys.every((key) => typeof key === 'object' && key !== null);
  if (!isSet) throw new Error('The issuer’s keys are no JWK set.');
  const made = await Promise.allSettled((jwks.keys as JWK[]).map((key) => thumbprintOf(key)));
  return new Set(made.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : [])));
}

/** Where keys may be read: over https, or http on loopback. */
export function isSafe(url: URL): boolean {
  if (url.protocol === 'https:') return true;
  const isLoopback = url.hostname === 'localhost' || url.hostname === '[::1]' || /^127(\.\d+){3}$/.test(url.hostname);
  return url.protocol === 'http:' && isLoopback;
}

/** The body of an answer. Throws when it is longer than `limit` bytes. */
export async function readLimited(response: Response, limit: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength;
    if (size > limit) throw new Error(`The issuer’s keys are larger than ${limit} bytes.`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
