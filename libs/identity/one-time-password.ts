/**
 * One-time passwords: made where they are shown, once, and known to everybody else as a hash only. The hash is in the form
 * in which Keycloak keeps a password credential (secretData and credentialData of its CredentialRepresentation), so that
 * the job which gives it to Keycloak never sees the password.
 */
import { createHash, pbkdf2, randomBytes, randomInt, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';

/** As Keycloak's admin API takes it: both members are JSON texts. */
export interface PasswordHash {
  secretData: string;
  credentialData: string;
}

const derive = promisify(pbkdf2);

/** Without letters that look alike. */
const alphabet = 'abcdefghijkmnpqrstuvwxyz23456789';
const GROUPS = 5;
const GROUP_LENGTH = 5;
/**
 * Nobody guesses 125 random bits, however few the rounds; Keycloak hashes anew by its own policy at the first login.
 */
const ITERATIONS = 10_000;
const KEY_BYTES = 64;
const digest = 'sha512';

/** 125 random bits in groups that can be read out, and their hash. */
export async function newOneTimePassword(): Promise<{ password: string; hash: PasswordHash }> {
  const group = () => Array.from({ length: GROUP_LENGTH }, () => alphabet[randomInt(alphabet.length)]).join('');
  const password = Array.from({ length: GROUPS }, group).join('-');
  return { password, hash: await hashPassword(password) };
}

/** PBKDF2 with HMAC-SHA-512 (RFC 8018), as Keycloak's provider pbkdf2-sha512. */
export async function hashPassword(password: string): Promise<PasswordHash> {
  const salt = randomBytes(16);
  const key = await derive(password, salt, ITERATIONS, KEY_BYTES, digest);
  return {
    secretData: JSON.stringify({
      value: key.toString('base64'),
      salt: salt.toString('base64'),
      additionalParameters: {},
    }),
    credentialData: JSON.stringify({
      hashIterations: ITERATIONS,
      algorithm: `pbkdf2-${digest}`,
      additionalParameters: {},
    }),
  };
}

/** Whether it is the hash's password. Only for what stands in for Keycloak in development and tests. */
export async function isPasswordOf(password: string, hash: PasswordHash): Promise<boolean> {
  const { value, salt } = JSON.parse(hash.secretData) as { value: string; salt: string };
  const { hashIterations, algorithm } = JSON.parse(hash.credentialData) as {
    hashIterations: number;
    algorithm: string;
  };
  const expected = Buffer.from(value, 'base64');
  const key = await derive(
    password,
    Buffer.from(salt, 'base64'),
    hashIterations,
    expected.length,
    algorithm.replace('pbkdf2-', ''),
  );
  return timingSafeEqual(key, expected);
}

/** Names a hash without giving anything of it away: says whether it is the one that was set last. */
export function passwordMark(hash: PasswordHash): string {
  return createHash('sha256').update(hash.secretData).digest('base64url').slice(0, 22);
}
