/**
 * A CA's certificate and key, and the shapes of what is signed with them. Extensions follow RFC 5280 section 4.2. What is
 * signed for whom is the callers' to decide: the built-in CA on files, and the issuer of rhyzome-grpc.
 */
import 'reflect-metadata';
import { createPrivateKey, type KeyObject, randomBytes, webcrypto, type X509Certificate } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import { assertValidAt, parseCertificates } from './credentials.js';
import { PkiError } from './errors.js';
import { assertPrivate, readPem } from './files.js';
import { defaultTrustDomain, identityUri, type PeerIdentity, subjectAltNames } from './identity.js';

x509.cryptoProvider.set(webcrypto);

type Algorithm = webcrypto.EcKeyImportParams | webcrypto.RsaHashedImportParams | webcrypto.Algorithm;

/** Clocks differ a little: a new certificate counts from a few minutes ago, a short-lived one from a moment ago. */
export const backdateMs = 5 * 60 * 1000;

export const keyAlgorithm = { name: 'ECDSA', namedCurve: 'P-256' } as const;
export const signingAlgorithm = { name: 'ECDSA', hash: 'SHA-256' } as const;

/** How the keys of other CAs sign, by type and curve. */
const algorithms: Record<string, { key: Algorithm; signing: Algorithm | { name: string; hash: string } }> = {
  'ec prime256v1': { key: keyAlgorithm, signing: signingAlgorithm },
  'ec secp384r1': { key: { name: 'ECDSA', namedCurve: 'P-384' }, signing: { name: 'ECDSA', hash: 'SHA-384' } },
  rsa: {
    key: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' },
    signing: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' },
  },
  ed25519: { key: { name: 'Ed25519' }, signing: { name: 'Ed25519' } },
};

export interface Authority {
  /** What stands in the file of the certificate: it, and further ones up to a root. */
  pem: string;
  parsed: X509Certificate[];
  certificate: x509.X509Certificate;
  /** Of the URI in the CA's own certificate. */
  trustDomain: string;
  signingKey: webcrypto.CryptoKey;
  signingAlgorithm: Algorithm | { name: string; hash: string };
}

/** Loads a CA that may sign now. Throws PkiError with the file at fault. */
export async function loadAuthority(paths: { cert: string; key: string }, now = new Date()): Promise<Authority> {
  const pem = (await readPem(paths.cert, 'the CA')).toString();
  const parsed = parseCertificates(Buffer.from(pem), paths.cert, 'the CA');
  const own = parsed[0]!;
  if (!own.ca) throw new PkiError('not_a_ca', `${paths.cert} is not the certificate of a CA.`, paths.cert);
  assertValidAt(own, paths.cert, now);
  const keyPem = await readPem(paths.key, 'the key of the CA');
  await assertPrivate(paths.key);
  const key = parseCaKey(keyPem, paths.key);
  if (!own.checkPrivateKey(key)) {
    throw new PkiError(
      'key_mismatch',
      `${paths.key} is not the key of the CA ${paths.cert}. Put the two files that were made together.`,
      paths.key,
    );
  }
  const algorithm = signatureAlgorithm(key, paths.key);
  const uri = subjectAltNames(own.subjectAltName ?? '').find(([type]) => type === 'URI')?.[1] ?? '';
  return {
    pem,
    parsed,
    certificate: new x509.X509Certificate(own.raw),
    trustDomain: /^spiffe:\/\/([^/]+)$/.exec(uri)?.[1] ?? defaultTrustDomain,
    signingKey: await webcrypto.subtle.importKey(
      'pkcs8',
      key.export({ format: 'der', type: 'pkcs8' }),
      algorithm.key,
      false,
      ['sign'],
    ),
    signingAlgorithm: algorithm.signing,
  };
}

function parseCaKey(pem: Buffer, file: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch (cause) {
    const message = `${file} (the key of the CA) holds no unencrypted private key in PEM form.`;
    throw new PkiError('key_unparsable', message, file, { cause });
  }
}

/** By what a CA's key, or the public half of it, signs. Throws PkiError `key_unparsable`. */
export function signatureAlgorithm(key: KeyObject, file: string) {
  const type = [key.asymmetricKeyType, key.asymmetricKeyDetails?.namedCurve].filter(Boolean).join(' ');
  const known = algorithms[type];
  if (known) return known;
  const message = `${file} (the key of the CA) is of the type ${type}; it must be ECDSA on P-256 or P-384, RSA, or Ed25519.`;
  throw new PkiError('key_unparsable', message, file);
}

export interface LeafOptions {
  /** Who it is for; its trust domain too. */
  identity: PeerIdentity;
  /** Names that clients dial, of servers only. */
  hostNames?: { type: 'dns' | 'ip'; value: string }[];
  publicKey: webcrypto.CryptoKey | x509.PublicKey;
  /** Never beyond the CA's own end. */
  validityMs: number;
}

export interface Leaf {
  pem: string;
  /** Upper hex. */
  serial: string;
  notBefore: Date;
  notAfter: Date;
}

/** Signs a certificate with one identity, which is no CA's. */
export async function signLeaf(authority: Authority, options: LeafOptions): Promise<Leaf> {
  const { identity, hostNames = [], publicKey, validityMs } = options;
  const now = Date.now();
  const issuer = authority.certificate;
  const notAfter = wholeSeconds(new Date(Math.min(now + validityMs, issuer.notAfter.getTime())));
  const backMs = validityMs > 0 ? Math.min(backdateMs, validityMs / 10) : backdateMs;
  const serial = newSerial();
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serial,
    subject: [{ CN: [identity.name] }],
    issuer: issuer.subject,
    notBefore: wholeSeconds(new Date(Math.max(now - backMs, issuer.notBefore.getTime()))),
    notAfter,
    publicKey,
    signingKey: authority.signingKey,
    signingAlgorithm: authority.signingAlgorithm,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension(extendedKeyUsages(identity)),
      new x509.SubjectAlternativeNameExtension([{ type: 'url', value: identityUri(identity) }, ...hostNames]),
      await x509.SubjectKeyIdentifierExtension.create(publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
    ],
  });
  return {
    pem: `${certificate.toString('pem')}\n`,
    serial: serial.toUpperCase(),
    notBefore: certificate.notBefore,
    notAfter: certificate.notAfter,
  };
}

/** A server also dials others of its kind, so it may be a client too; nodes and services only dial. */
function extendedKeyUsages({ type }: PeerIdentity): string[] {
  const { clientAuth, serverAuth } = x509.ExtendedKeyUsage;
  return type === 'server' ? [serverAuth, clientAuth] : [clientAuth];
}

export async function generateKey(): Promise<webcrypto.CryptoKeyPair> {
  return await webcrypto.subtle.generateKey(keyAlgorithm, true, ['sign', 'verify']);
}

/** PKCS #8 in PEM. */
export async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  const der = await webcrypto.subtle.exportKey('pkcs8', key);
  return `${x509.PemConverter.encode(der, 'PRIVATE KEY')}\n`;
}

/** 16 random octets, positive and without a leading zero (RFC 5280 section 4.1.2.2). */
export function newSerial(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0]! & 0x7f) | 0x40;
  return bytes.toString('hex');
}

export function wholeSeconds(date: Date): Date {
  return new Date(Math.floor(date.getTime() / 1000) * 1000);
}
