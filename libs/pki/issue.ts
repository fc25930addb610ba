/**
 * The built-in CA: one root on ECDSA P-256 that signs the certificates of nodes, services and servers. Meant for one's
 * own nodes; another CA may issue the same shapes (docs/pki.md). Extensions follow RFC 5280 section 4.2.
 */
import 'reflect-metadata';
import { randomBytes, webcrypto } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join, resolve } from 'node:path';
import * as x509 from '@peculiar/x509';
import type { CredentialPaths } from './credentials.js';
import { assertValidAt, parseCertificates } from './credentials.js';
import { PkiError } from './errors.js';
import { assertPrivate, certificateMode, keyMode, readPem, writeFileAtomically } from './files.js';
import { defaultTrustDomain, type IdentityType, identityUri, subjectAltNames, trustDomainUri } from './identity.js';

x509.cryptoProvider.set(webcrypto);

const keyAlgorithm = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const signingAlgorithm = { name: 'ECDSA', hash: 'SHA-256' } as const;
const dayMs = 24 * 60 * 60 * 1000;
/** Clocks differ a little: a new certificate counts from a few minutes ago. */
const backdateMs = 5 * 60 * 1000;

export interface InitPkiOptions {
  /** Directory of the CA; made if missing (mode 0700). */
  dir: string;
  trustDomain?: string;
  /** Common name of the root. */
  name?: string;
  /** Validity; ten years unless given. */
  days?: number;
}

export interface CaFiles {
  ca: string;
  caKey: string;
  trustDomain: string;
  notAfter: Date;
  /** False: it was there already and was left as it is. */
  created: boolean;
}

/** The two files of a CA directory. */
export function caPaths(dir: string): { ca: string; caKey: string } {
  return { ca: join(resolve(dir), 'ca.pem'), caKey: join(resolve(dir), 'ca-key.pem') };
}

/**
 * Makes a root, or finds the one that is there. Throws PkiError `file_exists` when only one of the two files is there,
 * or when the root there is of another trust domain than the one asked for.
 */
export async function initPki(options: InitPkiOptions): Promise<CaFiles> {
  const { ca, caKey } = caPaths(options.dir);
  await mkdir(options.dir, { recursive: true, mode: 0o700 });
  const present = await Promise.all([exists(ca), exists(caKey)]);
  if (present[0] && present[1]) return existingCa(options);
  // The key is written first: a key alone is what a crash in between leaves, and nobody can have used it yet.
  if (present[0]) {
    throw new PkiError(
      'file_exists',
      `${ca} is there, but its key ${caKey} is not. Bring it back, or use another directory.`,
      ca,
    );
  }
  const trustDomain = options.trustDomain ?? defaultTrustDomain;
  const uri = trustDomainUri(trustDomain);
  const keys = await generateKey();
  const notBefore = new Date(Date.now() - backdateMs);
  const notAfter = wholeSeconds(new Date(Date.now() + (options.days ?? 3650) * dayMs));
  const root = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(),
    name: [{ CN: [options.name ?? `Rhyzome CA of ${trustDomain}`] }],
    notBefore,
    notAfter,
    keys,
    signingAlgorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      new x509.SubjectAlternativeNameExtension([{ type: 'url', value: uri }]),
    ],
  });
  await writeFileAtomically(caKey, await exportKey(keys.privateKey), keyMode);
  await writeFileAtomically(ca, `${root.toString('pem')}\n`, certificateMode);
  return { ca, caKey, trustDomain, notAfter, created: true };
}

async function existingCa(options: InitPkiOptions): Promise<CaFiles> {
  const authority = await loadCa(options.dir);
  if (options.trustDomain !== undefined && options.trustDomain !== authority.trustDomain) {
    throw new PkiError(
      'file_exists',
      `${authority.ca} is the CA of the trust domain ${authority.trustDomain}, not of ${options.trustDomain}. Use another directory.`,
      authority.ca,
    );
  }
  const { ca, caKey, trustDomain, notAfter } = authority;
  return { ca, caKey, trustDomain, notAfter, created: false };
}

export interface IssueOptions {
  /** Directory of the CA. */
  dir: string;
  type: IdentityType;
  name: string;
  /** Names and addresses that a server listens on; only for type `server`, which needs at least one. */
  dns?: string[];
  ip?: string[];
  /** Validity; a year unless given, never longer than the CA's. */
  days?: number;
  /** Directory for the files; the CA's unless given. */
  out?: string;
  /** Replace files that are there (a renewal). */
  force?: boolean;
}

export interface IssuedFiles extends CredentialPaths {
  identity: string;
  notAfter: Date;
  /** Upper hex. */
  serial: string;
}

/** Issues `<type>-<name>.pem` with its key. Throws PkiError, `file_exists` unless `force`. */
export async function issueCertificate(options: IssueOptions): Promise<IssuedFiles> {
  const names = hostNames(options);
  const authority = await loadCa(options.dir);
  const uri = identityUri({ type: options.type, name: options.name, trustDomain: authority.trustDomain });
  const out = resolve(options.out ?? options.dir);
  await mkdir(out, { recursive: true, mode: 0o700 });
  const cert = join(out, `${options.type}-${options.name}.pem`);
  const key = join(out, `${options.type}-${options.name}-key.pem`);
  if (!options.force && (await exists(cert))) {
    throw new PkiError('file_exists', `${cert} is there already. Say --force to replace it.`, cert);
  }
  const keys = await generateKey();
  const wanted = Date.now() + (options.days ?? 365) * dayMs;
  const notAfter = wholeSeconds(new Date(Math.min(wanted, authority.notAfter.getTime())));
  const serial = newSerial();
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serial,
    subject: [{ CN: [options.name] }],
    issuer: authority.certificate.subject,
    notBefore: new Date(Math.max(Date.now() - backdateMs, authority.certificate.notBefore.getTime())),
    notAfter,
    publicKey: keys.publicKey,
    signingKey: authority.signingKey,
    signingAlgorithm,
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension(extendedKeyUsages(options.type)),
      new x509.SubjectAlternativeNameExtension([{ type: 'url', value: uri }, ...names]),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(authority.certificate.publicKey),
    ],
  });
  await writeFileAtomically(key, await exportKey(keys.privateKey), keyMode);
  await writeFileAtomically(cert, `${certificate.toString('pem')}\n`, certificateMode);
  const ca = join(out, 'ca.pem');
  if (ca !== authority.ca) await writeFileAtomically(ca, authority.pem.toString(), certificateMode);
  return { ca, cert, key, identity: uri, notAfter, serial: serial.toUpperCase() };
}

function hostNames(options: IssueOptions): { type: 'dns' | 'ip'; value: string }[] {
  const dns = options.dns ?? [];
  const ip = options.ip ?? [];
  if (options.type !== 'server') {
    if (dns.length + ip.length === 0) return [];
    throw new PkiError(
      'name_malformed',
      `Only a server certificate carries DNS names and addresses, not a ${options.type}’s.`,
    );
  }
  if (dns.length + ip.length === 0) {
    throw new PkiError(
      'name_malformed',
      'A server certificate needs at least one DNS name or address that clients dial.',
    );
  }
  for (const name of dns) {
    if (
      !/^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/.test(name) ||
      name.length > 253
    ) {
      throw new PkiError('name_malformed', `“${name}” is not a DNS name in lower case.`);
    }
  }
  for (const address of ip) {
    if (isIP(address) === 0) throw new PkiError('name_malformed', `“${address}” is not an IP address.`);
  }
  return [
    ...dns.map((value) => ({ type: 'dns' as const, value })),
    ...ip.map((value) => ({ type: 'ip' as const, value })),
  ];
}

/**
 * Servers dial others of their kind, and nodes take in the machines that other nodes send; services only dial. What is
 * taken for a server is decided by the identity (checkServer), so that a node never passes for one.
 */
function extendedKeyUsages(type: IdentityType): string[] {
  const { clientAuth, serverAuth } = x509.ExtendedKeyUsage;
  return type === 'service' ? [clientAuth] : [serverAuth, clientAuth];
}

async function loadCa(dir: string) {
  const { ca, caKey } = caPaths(dir);
  const pem = await readPem(ca, 'the CA');
  const parsed = parseCertificates(pem, ca, 'the CA')[0]!;
  if (!parsed.ca) throw new PkiError('not_a_ca', `${ca} is not the certificate of a CA.`, ca);
  assertValidAt(parsed, ca, new Date());
  const keyPem = await readPem(caKey, 'the key of the CA');
  await assertPrivate(caKey);
  const uri = subjectAltNames(parsed.subjectAltName ?? '').find(([type]) => type === 'URI')?.[1] ?? '';
  const trustDomain = /^spiffe:\/\/([^/]+)$/.exec(uri)?.[1] ?? defaultTrustDomain;
  return {
    ca,
    caKey,
    pem,
    trustDomain,
    notAfter: parsed.validToDate,
    certificate: new x509.X509Certificate(pem.toString()),
    signingKey: await importCaKey(keyPem, caKey),
  };
}

async function importCaKey(pem: Buffer, file: string): Promise<webcrypto.CryptoKey> {
  try {
    const der = x509.PemConverter.decodeFirst(pem.toString());
    return await webcrypto.subtle.importKey('pkcs8', der, keyAlgorithm, false, ['sign']);
  } catch (cause) {
    throw new PkiError(
      'key_unparsable',
      `${file} (the key of the CA) is not an ECDSA P-256 key in PKCS #8 PEM form.`,
      file,
      {
        cause,
      },
    );
  }
}

async function generateKey(): Promise<webcrypto.CryptoKeyPair> {
  return await webcrypto.subtle.generateKey(keyAlgorithm, true, ['sign', 'verify']);
}

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  const der = await webcrypto.subtle.exportKey('pkcs8', key);
  return `${x509.PemConverter.encode(der, 'PRIVATE KEY')}\n`;
}

/** 16 random octets, positive and without a leading zero (RFC 5280 section 4.1.2.2). */
function newSerial(): string {
  const bytes = randomBytes(16);
  bytes[0] = (bytes[0]! & 0x7f) | 0x40;
  return bytes.toString('hex');
}

function wholeSeconds(date: Date): Date {
  return new Date(Math.floor(date.getTime() / 1000) * 1000);
}

async function exists(file: string): Promise<boolean> {
  try {
    await readPem(file, 'a file');
    return true;
  } catch (error) {
    if (error instanceof PkiError && error.code === 'file_missing') return false;
    throw error;
  }
}
