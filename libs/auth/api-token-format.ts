/**
 * What an API token looks like: `rhz_`, 160 random bits in base62, and a checksum, so that scanners for leaked secrets find
 * it without asking and what is mistyped is refused without a look at the database. Only its SHA-256 is ever kept: of 160
 * random bits nobody finds the original by trying.
 */
import { hash, randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { API_TOKEN_PREFIX } from './authenticator.js';

const digits = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
const RANDOM_BYTES = 20;
/** 62^27 > 2^160. */
const RANDOM_LENGTH = 27;
/** 62^6 > 2^32. */
const CHECKSUM_LENGTH = 6;
/** Of the random part, what its owner is shown later to tell one token from another; 136 bits stay unknown. */
const SHOWN_LENGTH = 4;

const shape = new RegExp(`^${API_TOKEN_PREFIX}([0-9A-Za-z]{${RANDOM_LENGTH}})([0-9A-Za-z]{${CHECKSUM_LENGTH}})$`);

export interface NewApiToken {
  /** To be shown once. */
  token: string;
  /** SHA-256 of the token. */
  hash: Buffer;
  /** How it begins. */
  prefix: string;
}

/** Makes a token from the system's random numbers. */
export function newApiToken(): NewApiToken {
  const random = base62(BigInt(`0x${randomBytes(RANDOM_BYTES).toString('hex')}`), RANDOM_LENGTH);
  const token = `${API_TOKEN_PREFIX}${random}${checksumOf(random)}`;
  return { token, hash: hashOfApiToken(token), prefix: `${API_TOKEN_PREFIX}${random.slice(0, SHOWN_LENGTH)}` };
}

/** What is kept of a token. */
export function hashOfApiToken(token: string): Buffer {
  return hash('sha256', token, 'buffer');
}

/** Whether a text can be a token at all: of its shape, with the right checksum. */
export function isApiToken(text: string): boolean {
  const match = shape.exec(text);
  return match !== null && checksumOf(match[1]!) === match[2];
}

/** CRC-32 (as in zlib, RFC 1952 §8) of the random part's ASCII. */
function checksumOf(random: string): string {
  return base62(BigInt(crc32(random)), CHECKSUM_LENGTH);
}

function base62(value: bigint, length: number): string {
  let text = '';
  for (let rest = value; text.length < length; rest /= 62n) text = digits[Number(rest % 62n)] + text;
  return text;
}
