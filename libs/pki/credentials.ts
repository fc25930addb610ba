/**
 * What a process shows its peers: a CA, a certificate with an identity, and the key to it. Loads them and says in plain
 * words why a set cannot be used, before anything listens or dials.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { PkiError } from './errors.js';
import { assertPrivate, readPem } from './files.js';
import { type PeerIdentity, parsePeerIdentity } from './identity.js';

/** Paths of PEM files. `cert` may carry intermediates after the leaf, `ca` several roots. */
export interface CredentialPaths {
  ca: string;
  cert: string;
  key: string;
}

export interface Credentials {
  paths: CredentialPaths;
  /** PEM. */
  ca: Buffer;
  /** PEM. */
  cert: Buffer;
  /** PEM; never to be logged. */
  key: Buffer;
  identity: PeerIdentity;
  notBefore: Date;
  notAfter: Date;
  /** SHA-256 of the leaf, upper hex with colons. */
  fingerprint: string;
}

/** Loads and checks; throws PkiError with the file at fault. `now` is for tests. */
export async function loadCredentials(paths: CredentialPaths, now: Date = new Date()): Promise<Credentials> {
  const [ca, cert] = await Promise.all([readPem(paths.ca, 'the CA'), readPem(paths.cert, 'the certificate')]);
  const key = await readPem(paths.key, 'the private key');
  await assertPrivate(paths.key);
  const roots = parseCertificates(ca, paths.ca, 'the CA');
  const [leaf, ...intermediates] = parseCertificates(cert, paths.cert, 'the certificate');
  const privateKey = parseKey(key, paths.key);
  for (const root of roots) assertCa(root, paths.ca);
  if (!leaf!.checkPrivateKey(privateKey)) {
    throw new PkiError(
      'key_mismatch',
      `${paths.key} is not the key of the certificate ${paths.cert}. Put the two files that were issued together.`,
      paths.key,
    );
  }
  assertValidAt(leaf!, paths.cert, now);
  assertChain(leaf!, intermediates, roots, paths, now);
  return {
    paths: { ca: paths.ca, cert: paths.cert, key: paths.key },
    ca,
    cert,
    key,
    identity: identityOf(leaf!, paths.cert),
    notBefore: leaf!.validFromDate,
    notAfter: leaf!.validToDate,
    fingerprint: leaf!.fingerprint256,
  };
}

/** Every certificate of a PEM file, in order; at least one. Throws PkiError `certificate_unparsable`. */
export function parseCertificates(pem: Buffer, file: string, what: string): X509Certificate[] {
  const blocks = pem.toString('latin1').match(/-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g);
  if (blocks === null) {
    throw new PkiError('certificate_unparsable', `${file} (${what}) holds no certificate in PEM form.`, file);
  }
  return blocks.map((block) => {
    try {
      return new X509Certificate(block);
    } catch (cause) {
      throw new PkiError(
        'certificate_unparsable',
        `${file} (${what}) holds something that is not a certificate: ${reason(cause)}`,
        file,
        { cause },
      );
    }
  });
}

/** Throws PkiError `key_unparsable`. */
export function parseKey(pem: Buffer, file: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (cause) {
    throw new PkiError(
      'key_unparsable',
      `${file} (the private key) holds no unencrypted private key in PEM form: ${reason(cause)}`,
      file,
      { cause },
    );
  }
}

function reason(cause: unknown): string {
  return (cause as NodeJS.ErrnoException).code ?? 'it cannot be parsed';
}

function assertCa(root: X509Certificate, file: string): void {
  if (!root.ca) {
    throw new PkiError('not_a_ca', `${file} holds a certificate that is not a CA’s (${oneLine(root.subject)}).`, file);
  }
}

/** Throws PkiError `certificate_expired` or `certificate_not_yet_valid`. */
export function assertValidAt(certificate: X509Certificate, file: string, now: Date): void {
  const who = oneLine(certificate.subject);
  if (now > certificate.validToDate) {
    throw new PkiError(
      'certificate_expired',
      `${file} (${who}) expired at ${certificate.validToDate.toISOString()}. Issue a new one.`,
      file,
    );
  }
  if (now < certificate.validFromDate) {
    throw new PkiError(
      'certificate_not_yet_valid',
      `${file} (${who}) is valid only from ${certificate.validFromDate.toISOString()} on; here it is ${now.toISOString()}. Check the clock.`,
      file,
    );
  }
}

/**
 * Walks from the leaf to one of the roots by issuer and signature. Throws PkiError, which names the files at fault as
 * `paths` has them.
 */
export function assertChain(
  leaf: X509Certificate,
  intermediates: readonly X509Certificate[],
  roots: readonly X509Certificate[],
  paths: Pick<CredentialPaths, 'ca' | 'cert'>,
  now: Date,
): void {
  let current = leaf;
  const seen = new Set<X509Certificate>();
  while (!seen.has(current)) {
    seen.add(current);
    const root = roots.find((candidate) => issued(candidate, current));
    if (root) {
      assertValidAt(root, paths.ca, now);
      return;
    }
    const next = intermediates.find((candidate) => candidate.ca && issued(candidate, current));
    if (!next) break;
    assertValidAt(next, paths.cert, now);
    current = next;
  }
  throw new PkiError(
    'not_signed_by_ca',
    `${paths.cert} is not signed by the CA in ${paths.ca} (its issuer is ${oneLine(leaf.issuer)}). Use the CA that issued it, and put intermediates after the certificate in its file.`,
    paths.cert,
  );
}

function issued(issuer: X509Certificate, subject: X509Certificate): boolean {
  return subject.checkIssued(issuer) && subject.verify(issuer.publicKey);
}

function identityOf(leaf: X509Certificate, file: string): PeerIdentity {
  try {
    return parsePeerIdentity(leaf);
  } catch (cause) {
    if (cause instanceof PkiError) throw new PkiError(cause.code, `${file}: ${cause.message}`, file, { cause });
    throw cause;
  }
}

/** Node gives distinguished names with a line each. */
export function oneLine(distinguishedName: string): string {
  return distinguishedName.replaceAll('\n', ', ');
}
