/**
 * The public keys of a program that logs in by private_key_jwt (RFC 7523 §2.2): a JSON Web Key Set (RFC 7517 §5) of a few
 * keys, without anything private, in one form whoever wrote it.
 */
import { createPublicKey, hash, type JsonWebKey, type KeyObject } from 'node:crypto';
import { Check, type Finding } from '#libs/openapi';

export interface PublicKey {
  kty: 'RSA' | 'EC' | 'OKP';
  kid: string;
  use: 'sig';
  [member: string]: string;
}

export interface PublicKeys {
  keys: PublicKey[];
}

export const MAX_KEYS = 10;
const MIN_RSA_BITS = 2048;
const MAX_RSA_BITS = 8192;

/** The members that are the key (RFC 7638 §3.2, RFC 8037 §2), in the order in which its thumbprint has them. */
const required: Readonly<Record<string, readonly string[]>> = {
  RSA: ['e', 'kty', 'n'],
  EC: ['crv', 'kty', 'x', 'y'],
  OKP: ['crv', 'kty', 'x'],
};
const curves = ['P-256', 'P-384', 'P-521', 'Ed25519'];
const optional = ['kid', 'use', 'alg', 'key_ops', 'x5t', 'x5t#S256', 'x5c'];
/** RFC 7518 §6: private, or a shared secret. */
const secret = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k'];

/** A field that is such a set. */
export function ArePublicKeys(): PropertyDecorator {
  return Check<unknown>('arePublicKeys', findings, {
    type: 'object',
    required: ['keys'],
    properties: {
      keys: { type: 'array', minItems: 1, maxItems: MAX_KEYS, items: { type: 'object' } },
    },
    additionalProperties: false,
  });
}

const wrong = (pointer: string, code: string, message: string): Finding => ({ pointer, code, message });

function findings(value: unknown): Finding[] {
  if (!isObject(value)) return [wrong('', 'wrong_type', 'must be a JSON Web Key Set: {"keys": [...]}')];
  const unknown = Object.keys(value).find((name) => name !== 'keys');
  if (unknown !== undefined) return [wrong('', 'unknown_field', 'must have the member keys and no other')];
  const { keys } = value;
  if (!Array.isArray(keys)) return [wrong('/keys', 'wrong_type', 'must be a list of keys')];
  if (keys.length === 0 || keys.length > MAX_KEYS)
    return [wrong('/keys', 'out_of_range', `must be 1 to ${MAX_KEYS} keys`)];
  const found = keys.flatMap((key: unknown, index) => keyFindings(key, `/keys/${index}`));
  if (found.length > 0) return found;
  const ids = normalized(value as unknown as PublicKeys).keys.map(({ kid }) => kid);
  const twice = ids.findIndex((kid, index) => ids.indexOf(kid) !== index);
  return twice < 0 ? [] : [wrong(`/keys/${twice}/kid`, 'duplicate', 'is another key’s, too')];
}

function keyFindings(key: unknown, pointer: string): Finding[] {
  if (!isObject(key)) return [wrong(pointer, 'wrong_type', 'must be a JSON Web Key')];
  const members = Object.keys(key);
  if (members.some((name) => secret.includes(name)))
    return [
      wrong(pointer, 'private_key', 'holds a private or secret key; send its public half only, and make a new one'),
    ];
  const needed = typeof key.kty === 'string' && Object.hasOwn(required, key.kty) ? required[key.kty]! : undefined;
  if (!needed) return [wrong(`${pointer}/kty`, 'invalid_value', 'must be RSA, EC or OKP')];
  const unknown = members.find((name) => !needed.includes(name) && !optional.includes(name));
  if (unknown !== undefined)
    return [wrong(pointer, 'unknown_field', `has a member that no ${String(key.kty)} key has`)];
  if (needed.some((name) => typeof key[name] !== 'string' || (key[name] as string).length > 2048))
    return [wrong(pointer, 'invalid_value', `must have ${needed.join(', ')} as texts`)];
  if (key.use !== undefined && key.use !== 'sig') return [wrong(`${pointer}/use`, 'invalid_value', 'must be sig')];
  if (key.kid !== undefined && !(typeof key.kid === 'string' && /^[\x21-\x7e]{1,255}$/.test(key.kid)))
    return [wrong(`${pointer}/kid`, 'invalid_format', 'must be 1 to 255 printable ASCII characters')];
  if (key.alg !== undefined && !(typeof key.alg === 'string' && /^(RS|PS|ES)(256|384|512)$|^EdDSA$/.test(key.alg)))
    return [wrong(`${pointer}/alg`, 'invalid_value', 'must be an algorithm of asymmetric signatures')];
  return strengthFindings(key as JsonWebKey, pointer);
}

/** What OpenSSL cannot read is no key; a short one is as good as none. */
function strengthFindings(key: JsonWebKey, pointer: string): Finding[] {
  if (key.kty !== 'RSA' && !curves.includes(key.crv ?? ''))
    return [wrong(`${pointer}/crv`, 'invalid_value', `must be one of ${curves.join(', ')}`)];
  let read: KeyObject;
  try {
    read = createPublicKey({ key, format: 'jwk' });
  } catch {
    return [wrong(pointer, 'invalid_value', 'is no key that can be read')];
  }
  const bits = read.asymmetricKeyDetails?.modulusLength;
  if (bits === undefined || (bits >= MIN_RSA_BITS && bits <= MAX_RSA_BITS)) return [];
  return [wrong(`${pointer}/n`, 'out_of_range', `must be ${MIN_RSA_BITS} to ${MAX_RSA_BITS} bits long`)];
}

/**
 * The set with what a verifier needs and nothing else: each key with its use and an id, by default its thumbprint
 * (RFC 7638). The set has been checked.
 */
export function normalized(set: { keys: readonly object[] }): PublicKeys {
  return {
    keys: set.keys.map((given): PublicKey => {
      const key = given as Record<string, string>;
      const needed = required[key.kty!]!;
      const members = Object.fromEntries(needed.map((name) => [name, key[name]!]));
      const kid = key.kid ?? hash('sha256', JSON.stringify(members), 'base64url');
      return { ...members, ...(key.alg && { alg: key.alg }), use: 'sig', kid } as PublicKey;
    }),
  };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
