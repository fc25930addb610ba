/**
 * The built-in CA: one root on ECDSA P-256, by hand and on files, that signs the certificates of nodes, services and
 * servers. Meant for one's own nodes; another CA may issue the same shapes (docs/pki.md).
 */
import { mkdir } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join, resolve } from 'node:path';
import * as x509 from '@peculiar/x509';
import {
  backdateMs,
  exportKey,
  generateKey,
  loadAuthority,
  newSerial,
  signingAlgorithm,
  signLeaf,
  wholeSeconds,
} from './authority.js';
import type { CredentialPaths } from './credentials.js';
import { PkiError } from './errors.js';
import { certificateMode, exists, keyMode, writeFileAtomically } from './files.js';
import { defaultTrustDomain, type IdentityType, identityUri, trustDomainUri } from './identity.js';

const dayMs = 24 * 60 * 60 * 1000;
/** Below a root stand intermediates that sign for others (the issuer of rhyzome-grpc), and nothing below these. */
const rootPathLength = 1;

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
      new x509.BasicConstraintsExtension(true, rootPathLength, true),
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
  const { ca, caKey } = caPaths(options.dir);
  const { trustDomain, certificate } = await loadAuthority({ cert: ca, key: caKey });
  if (options.trustDomain !== undefined && options.trustDomain !== trustDomain) {
    throw new PkiError(
      'file_exists',
      `${ca} is the CA of the trust domain ${trustDomain}, not of ${options.trustDomain}. Use another directory.`,
      ca,
    );
  }
  return { ca, caKey, trustDomain, notAfter: certificate.notAfter, created: false };
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
  const { ca: caFile, caKey } = caPaths(options.dir);
  const authority = await loadAuthority({ cert: caFile, key: caKey });
  const identity = { type: options.type, name: options.name, trustDomain: authority.trustDomain };
  const uri = identityUri(identity);
  const out = resolve(options.out ?? options.dir);
  await mkdir(out, { recursive: true, mode: 0o700 });
  const cert = join(out, `${options.type}-${options.name}.pem`);
  const key = join(out, `${options.type}-${options.name}-key.pem`);
  if (!options.force && (await exists(cert))) {
    throw new PkiError('file_exists', `${cert} is there already. Say --force to replace it.`, cert);
  }
  const keys = await generateKey();
  const validityMs = (options.days ?? 365) * dayMs;
  const leaf = await signLeaf(authority, { identity, hostNames: names, publicKey: keys.publicKey, validityMs });
  await writeFileAtomically(key, await exportKey(keys.privateKey), keyMode);
  await writeFileAtomically(cert, leaf.pem, certificateMode);
  const ca = join(out, 'ca.pem');
  if (ca !== caFile) await writeFileAtomically(ca, authority.pem, certificateMode);
  return { ca, cert, key, identity: uri, notAfter: leaf.notAfter, serial: leaf.serial };
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
