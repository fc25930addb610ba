/** WireGuard's keys: 32 bytes of Curve25519 in base64 (wg(8)). */
import { generateKeyPairSync, type JsonWebKey } from 'node:crypto';

export interface KeyPair {
  privateKey: string;
  publicKey: string;
}

/** 43 characters and one of padding; the last of the 43 carries two bits that must be none. */
export const keyShape = /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/;

/** A new pair; the private half clamped, as `wg genkey` gives it (RFC 7748 §5). */
export function newKeyPair(): KeyPair {
  const jwk: JsonWebKey = generateKeyPairSync('x25519').privateKey.export({ format: 'jwk' });
  const secret = Buffer.from(jwk.d!, 'base64url');
  secret[0]! &= 248;
  secret[31] = (secret[31]! & 127) | 64;
  return {
    privateKey: secret.toString('base64'),
    publicKey: Buffer.from(jwk.x!, 'base64url').toString('base64'),
  };
}
