/** Tokens that an issuer would not give out: signed here with the realm's own key, or with something else. */
import { createHmac, createPublicKey } from 'node:crypto';
import { importJWK, type JWTPayload, SignJWT } from 'jose';
import { realmSecrets } from './client.js';
import type { Stack } from './stack.js';

const encode = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** What a good token of a realm says, with a life of ten minutes. */
export function goodClaims(stack: Stack, tenant: string): JWTPayload {
  const now = Math.floor(Date.now() / 1000);
  return {
    iss: stack.dev.tenants[tenant]!.issuer,
    aud: 'urn:rhyzome:api',
    sub: 'somebody',
    iat: now,
    exp: now + 600,
    typ: 'Bearer',
    realm_access: { roles: ['admin'] },
  };
}

/** Signs claims with the key of `tenant`'s realm. */
export async function signed(stack: Stack, tenant: string, claims: JWTPayload, header = {}): Promise<string> {
  const { signingKey } = realmSecrets(stack, tenant);
  const key = await importJWK(signingKey, 'RS256');
  return new SignJWT(claims)
    .setProtectedHeader({ alg: 'RS256', typ: 'at+jwt', kid: signingKey.kid, ...header })
    .sign(key);
}

/** RFC 7515 §6: no signature at all. */
export function unsigned(claims: JWTPayload): string {
  return `${encode({ alg: 'none', typ: 'at+jwt' })}.${encode(claims)}.`;
}

/** Signed by HMAC with the realm's public key as secret, which everybody has. */
export function signedWithPublicKey(stack: Stack, tenant: string, claims: JWTPayload): string {
  const { signingKey } = realmSecrets(stack, tenant);
  const { kty, n, e } = signingKey;
  const pem = createPublicKey({ key: { kty, n, e }, format: 'jwk' }).export({ type: 'spki', format: 'pem' });
  const text = `${encode({ alg: 'HS256', typ: 'at+jwt', kid: signingKey.kid })}.${encode(claims)}`;
  return `${text}.${createHmac('sha256', pem).update(text).digest('base64url')}`;
}
