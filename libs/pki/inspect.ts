/**
 * What stands in a certificate, for `rhyzome pki show`, and whether a set of files could serve, for `rhyzome pki verify`.
 */
import type { X509Certificate } from 'node:crypto';
import { type CredentialPaths, loadCredentials, oneLine, parseCertificates } from './credentials.js';
import { PkiError } from './errors.js';
import { readPem } from './files.js';
import { identityUri, parsePeerIdentity, subjectAltNames } from './identity.js';

export interface CertificateSummary {
  subject: string;
  issuer: string;
  /** Upper hex. */
  serial: string;
  /** SHA-256, upper hex with colons. */
  fingerprint: string;
  /** ISO 8601, UTC. */
  notBefore: string;
  notAfter: string;
  ca: boolean;
  /** Null when it has none that Rhyzome reads. */
  identity: string | null;
  dns: string[];
  ip: string[];
  /** DNS names, addresses and URIs, all of them, as `TYPE:value`. */
  names: string[];
}

/** Every certificate in a PEM file. Throws PkiError. */
export async function showCertificate(file: string): Promise<CertificateSummary[]> {
  return parseCertificates(await readPem(file, 'the certificate'), file, 'the certificate').map(summarize);
}

function summarize(certificate: X509Certificate): CertificateSummary {
  const names = subjectAltNames(certificate.subjectAltName ?? '');
  return {
    subject: oneLine(certificate.subject),
    issuer: oneLine(certificate.issuer),
    serial: certificate.serialNumber,
    fingerprint: certificate.fingerprint256,
    notBefore: certificate.validFromDate.toISOString(),
    notAfter: certificate.validToDate.toISOString(),
    ca: certificate.ca,
    identity: identityOrNull(certificate),
    dns: names.filter(([type]) => type === 'DNS').map(([, value]) => value),
    ip: names.filter(([type]) => type === 'IP Address').map(([, value]) => value),
    names: names.map(([type, value]) => `${type}:${value}`),
  };
}

function identityOrNull(certificate: X509Certificate): string | null {
  try {
    return identityUri(parsePeerIdentity(certificate));
  } catch (error) {
    if (error instanceof PkiError) return null;
    throw error;
  }
}

export type Verification =
  | { ok: true; identity: string; notAfter: string; daysLeft: number }
  | { ok: false; code: PkiError['code']; file: string | null; message: string };

/** The same checks that a server makes before it serves; the answer instead of an exception. */
export async function verifyCredentials(paths: CredentialPaths, now: Date = new Date()): Promise<Verification> {
  try {
    const credentials = await loadCredentials(paths, now);
    return {
      ok: true,
      identity: identityUri(credentials.identity),
      notAfter: credentials.notAfter.toISOString(),
      daysLeft: Math.floor((credentials.notAfter.getTime() - now.getTime()) / 86_400_000),
    };
  } catch (error) {
    if (!(error instanceof PkiError)) throw error;
    return { ok: false, code: error.code, file: error.file ?? null, message: error.message };
  }
}
