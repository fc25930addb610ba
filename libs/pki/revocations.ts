/**
 * A list of what was revoked, as controllers hand it to nodes and nodes hand it back: serial numbers, and holders whose
 * certificates up to a moment do not count. Signed by the issuer, so that a node cannot make one up. Not a CRL of RFC 5280,
 * which knows serial numbers only: certificates that were issued by hand have some that nobody recorded. Knows no files.
 */
import { createHash, webcrypto, X509Certificate } from 'node:crypto';
import { type Authority, signatureAlgorithm } from './authority.js';
import { assertChain, assertValidAt, parseCertificates } from './credentials.js';
import { PkiError } from './errors.js';
import { type IdentityType, identityTypes, type PeerIdentity } from './identity.js';

/** A certificate as a peer shows it. */
export interface ShownCertificate extends Pick<PeerIdentity, 'type' | 'name'> {
  /** Upper hex. */
  serial: string;
  notBefore: Date;
}

export function revokedError({ serial, type, name }: ShownCertificate): PkiError {
  return new PkiError('certificate_revoked', `The certificate ${serial} of ${type} “${name}” was revoked.`);
}

/** All that a holder had up to then. */
export interface RevokedHolder {
  type: IdentityType;
  name: string;
  revokedAtMs: number;
  /** Serials that were issued afterwards and count from before. */
  spared: readonly string[];
}

export interface Revocations {
  /** Upper hex. */
  serials: readonly string[];
  holders: readonly RevokedHolder[];
}

/** The bytes of a list, and who vouches for them. */
export interface SignedRevocations {
  list: Buffer;
  /** Empty: nobody vouches for it; this controller has no issuer. */
  signature: Buffer;
  /** PEM: the issuer, and what stands between it and the root. */
  chain: string;
}

/** Of a list in memory, and of one that comes from outside. */
export const mostRevocations = 10_000;
const MOST_BYTES = 2 * 1024 * 1024;
/** So that nothing else that an issuer ever signs can be taken for a list. */
const PURPOSE = 'rhyzome revocations 1\n';

/** What a list says, ready to be asked. */
export class RevokedSet {
  private readonly serials: ReadonlySet<string>;
  private readonly holders: ReadonlyMap<string, { revokedAtMs: number; spared: ReadonlySet<string> }>;

  constructor(readonly list: Revocations = { serials: [], holders: [] }) {
    this.serials = new Set(list.serials);
    this.holders = new Map(
      list.holders.map(({ type, name, revokedAtMs, spared }) => [
        `${type}/${name}`,
        { revokedAtMs, spared: new Set(spared) },
      ]),
    );
  }

  get size(): number {
    return this.serials.size + this.holders.size;
  }

  refuses(shown: ShownCertificate): boolean {
    if (this.serials.has(shown.serial)) return true;
    const holder = this.holders.get(`${shown.type}/${shown.name}`);
    // One that nobody recorded was made before or after, as it says itself.
    return holder !== undefined && !holder.spared.has(shown.serial) && shown.notBefore.getTime() <= holder.revokedAtMs;
  }

  /** Whether all that the other one refuses is refused by this one, but for what was issued since. */
  covers(other: RevokedSet): boolean {
    return (
      other.list.serials.every((serial) => this.serials.has(serial)) &&
      other.list.holders.every(
        ({ type, name, revokedAtMs }) => (this.holders.get(`${type}/${name}`)?.revokedAtMs ?? -1) >= revokedAtMs,
      )
    );
  }

  /** The same list always gives the same bytes. Undefined where it is longer than may be told. */
  encode(): Buffer | undefined {
    if (this.size > mostRevocations) return undefined;
    const serials = [...this.serials].sort();
    const holders = this.list.holders
      .map(({ type, name, revokedAtMs, spared }) => ({ type, name, revokedAtMs, spared: spared.toSorted() }))
      .sort((a, b) => (`${a.type}/${a.name}` < `${b.type}/${b.name}` ? -1 : 1));
    const bytes = Buffer.from(JSON.stringify({ serials, holders }));
    return bytes.length > MOST_BYTES ? undefined : bytes;
  }
}

/** Throws PkiError `revocations_malformed`. */
export function parseRevocations(bytes: Uint8Array): RevokedSet {
  if (bytes.length > MOST_BYTES) throw malformed('it is too long');
  let read: Partial<Revocations> | null;
  try {
    read = JSON.parse(Buffer.from(bytes).toString('utf8')) as Partial<Revocations> | null;
  } catch (cause) {
    throw malformed('it is no JSON', cause);
  }
  const { serials, holders } = read ?? {};
  if (!Array.isArray(serials) || !Array.isArray(holders)) throw malformed('it has no serials or no holders');
  if (serials.length + holders.length > mostRevocations) throw malformed('it is too long');
  if (!serials.every(isSerial)) throw malformed('something in it is no serial number');
  if (!holders.every(isHolder)) throw malformed('something in it is no holder');
  return new RevokedSet({ serials, holders });
}

function isSerial(text: unknown): text is string {
  return typeof text === 'string' && /^[0-9A-F]{1,40}$/.test(text);
}

function isHolder(value: unknown): value is RevokedHolder {
  const { type, name, revokedAtMs, spared } = (value ?? {}) as Partial<RevokedHolder>;
  return (
    identityTypes.some((known) => known === type) &&
    typeof name === 'string' &&
    /^[a-z0-9][a-z0-9._-]{0,62}$/.test(name) &&
    Number.isSafeInteger(revokedAtMs) &&
    Array.isArray(spared) &&
    spared.every(isSerial)
  );
}

function malformed(why: string, cause?: unknown): PkiError {
  return new PkiError('revocations_malformed', `A list of revocations cannot be used: ${why}.`, undefined, { cause });
}

/** SHA-256 of the list's bytes. */
export function digestOf({ list }: Pick<SignedRevocations, 'list'>): Buffer {
  return createHash('sha256').update(list).digest();
}

export async function signRevocations(authority: Authority, list: Buffer): Promise<SignedRevocations> {
  const { signingKey, signingAlgorithm, parsed } = authority;
  const signature = await webcrypto.subtle.sign(signingAlgorithm, signingKey, signedBytes(list));
  return { list, signature: Buffer.from(signature), chain: parsed.map((one) => one.toString()).join('') };
}

/**
 * The list, where an issuer below one of the roots (PEM) vouches for it. Throws PkiError `revocations_malformed`,
 * `not_signed_by_ca`, `certificate_expired` and others.
 */
export async function verifyRevocations(signed: SignedRevocations, ca: Buffer): Promise<RevokedSet> {
  const files = { ca: 'the CA', cert: 'the issuer of a list of revocations' };
  const [issuer, ...between] = parseCertificates(Buffer.from(signed.chain), files.cert, 'the issuer');
  if (!issuer!.ca) throw malformed('who signed it is no CA');
  assertValidAt(issuer!, files.cert, new Date());
  assertChain(issuer!, between, parseCertificates(ca, files.ca, 'the CA'), files, new Date());
  const { key, signing } = signatureAlgorithm(new X509Certificate(issuer!.raw).publicKey, files.cert);
  const spki = issuer!.publicKey.export({ format: 'der', type: 'spki' });
  const publicKey = await webcrypto.subtle.importKey('spki', spki, key, false, ['verify']);
  const isTrue = await webcrypto.subtle.verify(signing, publicKey, signed.signature, signedBytes(signed.list));
  if (!isTrue) throw malformed('its signature is not its issuer’s');
  return parseRevocations(signed.list);
}

function signedBytes(list: Uint8Array): Buffer {
  return Buffer.concat([Buffer.from(PURPOSE), list]);
}
