/**
 * Certificate signing requests (PKCS #10, RFC 2986): made where the key is, checked where the certificate is issued. Of a
 * request only the key counts; one that asks for more than its sender's own name is refused, so that nobody believes to
 * have got it.
 */
import 'reflect-metadata';
import { createHash, createPrivateKey, createPublicKey, webcrypto } from 'node:crypto';
import * as x509 from '@peculiar/x509';
import { keyAlgorithm, signingAlgorithm } from './authority.js';
import { PkiError } from './errors.js';

/** An RSA key of 4096 bits with its names needs a fifth of it (bytes). */
export const maxRequestBytes = 8 * 1024;

const weakHashes = ['SHA-1', 'MD5', 'MD2'];
const curves = ['prime256v1', 'secp384r1'];

export interface CheckedRequest {
  publicKey: x509.PublicKey;
  /** SHA-256 of the SubjectPublicKeyInfo. */
  keyDigest: Buffer;
  /** The identity that it asks for, if it does. */
  askedUri?: string;
}

/** The request of a P-256 key, in DER. Throws PkiError `key_unparsable`. */
export async function makeRequest(keyPem: string, file: string): Promise<Buffer> {
  const keys = await importPair(keyPem, file);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: [{ CN: ['rhyzome'] }],
    keys,
    signingAlgorithm,
  });
  return Buffer.from(request.rawData);
}

async function importPair(keyPem: string, file: string): Promise<webcrypto.CryptoKeyPair> {
  try {
    const key = createPrivateKey(keyPem);
    const pkcs8 = key.export({ format: 'der', type: 'pkcs8' });
    const spki = createPublicKey(key).export({ format: 'der', type: 'spki' });
    return {
      privateKey: await webcrypto.subtle.importKey('pkcs8', pkcs8, keyAlgorithm, false, ['sign']),
      publicKey: await webcrypto.subtle.importKey('spki', spki, keyAlgorithm, true, ['verify']),
    };
  } catch (cause) {
    const message = `${file} holds no ECDSA P-256 key in PEM form. Remove it: another one is made.`;
    throw new PkiError('key_unparsable', message, file, { cause });
  }
}

/** Throws PkiError `request_refused`, whatever was sent. */
export async function checkRequest(der: Uint8Array): Promise<CheckedRequest> {
  if (der.byteLength === 0 || der.byteLength > maxRequestBytes)
    throw refused(`It must have 1 to ${maxRequestBytes} bytes (DER), and has ${der.byteLength}.`);
  const request = parse(der);
  const spki = Buffer.from(request.publicKey.rawData);
  assertStrong(spki);
  if (weakHashes.includes((request.signatureAlgorithm as { hash?: { name: string } }).hash?.name ?? ''))
    throw refused('It is signed by way of a hash that is broken; use SHA-256.');
  if (!(await isSignedByItsKey(request))) throw refused('Its signature is not by the key in it.');
  return {
    publicKey: request.publicKey,
    keyDigest: createHash('sha256').update(spki).digest(),
    askedUri: askedUriOf(request),
  };
}

function parse(der: Uint8Array): x509.Pkcs10CertificateRequest {
  try {
    const request = new x509.Pkcs10CertificateRequest(new Uint8Array(der));
    // Read now, so that what is malformed inside shows here.
    void [request.publicKey.rawData, request.signatureAlgorithm, request.extensions, request.attributes];
    return request;
  } catch (cause) {
    throw refused('It cannot be parsed.', cause);
  }
}

/** RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, Ed25519. */
function assertStrong(spki: Buffer): void {
  let key: ReturnType<typeof createPublicKey>;
  try {
    key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
  } catch (cause) {
    throw refused('Its key cannot be used.', cause);
  }
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  const isGood =
    type === 'ed25519' ||
    (type === 'ec' && curves.includes(details?.namedCurve ?? '')) ||
    (type === 'rsa' && inRange(details?.modulusLength, 2048, 4096) && (details?.publicExponent ?? 0n) >= 65_537n);
  if (!isGood) throw refused('Its key must be ECDSA on P-256 or P-384, Ed25519, or RSA of 2048 to 4096 bits.');
}

function inRange(value: number | undefined, least: number, most: number): boolean {
  return value !== undefined && value >= least && value <= most;
}

async function isSignedByItsKey(request: x509.Pkcs10CertificateRequest): Promise<boolean> {
  try {
    return await request.verify();
  } catch {
    return false; // An algorithm that does not fit the key is as good as a wrong signature.
  }
}

/** The one URI that may stand in it. Throws PkiError `request_refused` for everything else that it asks for. */
function askedUriOf(request: x509.Pkcs10CertificateRequest): string | undefined {
  let uri: string | undefined;
  for (const extension of request.extensions) {
    if (!(extension instanceof x509.SubjectAlternativeNameExtension))
      throw refused(`It asks for the extension ${extension.type}; nothing but its own name may stand in it.`);
    for (const { type, value } of extension.names.items) {
      if (type !== 'url' || uri !== undefined)
        throw refused(
          'It asks for names; nothing but one’s own, spiffe://<trust domain>/<type>/<name>, may stand in it.',
        );
      uri = value;
    }
  }
  return uri;
}

function refused(why: string, cause?: unknown): PkiError {
  return new PkiError('request_refused', `The certificate signing request is refused. ${why}`, undefined, { cause });
}
