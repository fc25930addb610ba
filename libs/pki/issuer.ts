/**
 * The CA by which rhyzome-grpc issues certificates over the network: an intermediate below the root, whose key may lie on
 * a server since it can sign for clients only. Here it is made, for whoever has the root, and used. Who may have a
 * certificate, and whose, is decided elsewhere.
 */
import { stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import * as x509 from '@peculiar/x509';
import {
  type Authority,
  backdateMs,
  exportKey,
  generateKey,
  type Leaf,
  loadAuthority,
  newSerial,
  signLeaf,
  wholeSeconds,
} from './authority.js';
import { assertValidAt, parseCertificates } from './credentials.js';
import { PkiError } from './errors.js';
import { certificateMode, exists, keyMode, readPem, writeFileAtomically } from './files.js';
import { trustDomainUri } from './identity.js';
import { caPaths } from './issue.js';
import type { CheckedRequest } from './request.js';
import { type SignedRevocations, signRevocations } from './revocations.js';

const dayMs = 24 * 60 * 60 * 1000;
const issuerDays = 5 * 365;
/** `rhyzome pki init` makes another one when less is left. */
const enoughMs = 90 * dayMs;

export interface IssuerFiles {
  cert: string;
  key: string;
  notAfter: Date;
  created: boolean;
}

/**
 * Makes the issuer of a CA directory, or finds the one that is there and lasts. Undefined for a root that allows no CA
 * below it (made before there were issuers): it is its own. Throws PkiError.
 */
export async function ensureIssuer(dir: string): Promise<IssuerFiles | undefined> {
  const { ca, caKey } = caPaths(dir);
  const root = await loadAuthority({ cert: ca, key: caKey });
  const constraints = root.certificate.getExtension(x509.BasicConstraintsExtension);
  if (constraints?.pathLength === 0) return undefined;
  const files = { cert: join(resolve(dir), 'issuer.pem'), key: join(resolve(dir), 'issuer-key.pem') };
  if ((await exists(files.cert)) && (await exists(files.key))) {
    const [found] = parseCertificates(await readPem(files.cert, 'the issuer'), files.cert, 'the issuer');
    const lasts = found!.validToDate.getTime() - Date.now() > enoughMs;
    if (lasts && found!.checkIssued(root.parsed[0]!)) return { ...files, notAfter: found!.validToDate, created: false };
  }
  const keys = await generateKey();
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: newSerial(),
    subject: [{ CN: [`Rhyzome issuer of ${root.trustDomain}`] }],
    issuer: root.certificate.subject,
    notBefore: wholeSeconds(new Date(Math.max(Date.now() - backdateMs, root.certificate.notBefore.getTime()))),
    notAfter: wholeSeconds(new Date(Math.min(Date.now() + issuerDays * dayMs, root.certificate.notAfter.getTime()))),
    publicKey: keys.publicKey,
    signingKey: root.signingKey,
    signingAlgorithm: root.signingAlgorithm,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      // What is signed below it is no server to TLS: whoever takes this key poses as no server to agents and services.
      new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.clientAuth]),
      new x509.SubjectAlternativeNameExtension([{ type: 'url', value: trustDomainUri(root.trustDomain) }]),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      await x509.AuthorityKeyIdentifierExtension.create(root.certificate.publicKey),
    ],
  });
  await writeFileAtomically(files.key, await exportKey(keys.privateKey), keyMode);
  await writeFileAtomically(files.cert, `${certificate.toString('pem')}\n`, certificateMode);
  return { ...files, notAfter: certificate.notAfter, created: true };
}

export interface IssuerOptions {
  cert: string;
  key: string;
  /** File of the roots that all others trust. */
  ca: string;
  trustDomain: string;
  /** Of what is issued. */
  validityMs: number;
  /** Called once for each state of the files that cannot be used; the issuer before stays in use. */
  onRefused?: (error: PkiError) => void;
}

export interface IssuedLeaf extends Leaf {
  /** PEM: the certificate, and what stands between it and the root. */
  chain: string;
}

/** Issues to whom it is told to. Follows its files, so that a renewed issuer needs no restart. */
export class CertificateIssuer {
  private constructor(
    private readonly options: IssuerOptions,
    private authority: Authority,
    private signature: string,
  ) {}

  /** Throws PkiError when the files cannot be used. */
  static async open(options: IssuerOptions): Promise<CertificateIssuer> {
    const signature = await signatureOf(options);
    return new CertificateIssuer(options, await loadIssuer(options), signature);
  }

  get notAfter(): Date {
    return this.authority.certificate.notAfter;
  }

  get trustDomain(): string {
    return this.options.trustDomain;
  }

  /** Throws PkiError `certificate_expired` when the issuer itself has. */
  async issue(type: 'node' | 'service', name: string, request: CheckedRequest): Promise<IssuedLeaf> {
    await this.follow();
    const { authority, options } = this;
    assertValidAt(authority.parsed[0]!, options.cert, new Date());
    const leaf = await signLeaf(authority, {
      identity: { type, name, trustDomain: options.trustDomain },
      publicKey: request.publicKey,
      validityMs: options.validityMs,
    });
    const between = authority.parsed.filter((certificate) => !certificate.checkIssued(certificate));
    return {
      ...leaf,
      chain: [leaf.pem, ...between.map((certificate) => `${certificate.toString().trim()}\n`)].join(''),
    };
  }

  /** Vouches for a list. Throws PkiError `certificate_expired` when the issuer itself has. */
  async signRevocations(list: Buffer): Promise<SignedRevocations> {
    await this.follow();
    assertValidAt(this.authority.parsed[0]!, this.options.cert, new Date());
    return signRevocations(this.authority, list);
  }

  private async follow(): Promise<void> {
    const signature = await signatureOf(this.options);
    if (signature === this.signature) return;
    this.signature = signature;
    try {
      this.authority = await loadIssuer(this.options);
    } catch (error) {
      if (!(error instanceof PkiError)) throw error;
      this.options.onRefused?.(error);
    }
  }
}

/** A CA that the others trust: a root of theirs, or signed by one, directly or through what stands in its file. */
async function loadIssuer({ cert, key, ca }: IssuerOptions): Promise<Authority> {
  const authority = await loadAuthority({ cert, key });
  const roots = parseCertificates(await readPem(ca, 'the CA'), ca, 'the CA');
  const chain = authority.parsed;
  const isLinked = chain.every((one, index) => index === 0 || isSignedBy(chain[index - 1]!, one));
  const last = chain.at(-1)!;
  if (isLinked && roots.some((root) => root.fingerprint256 === last.fingerprint256 || isSignedBy(last, root)))
    return authority;
  throw new PkiError(
    'not_signed_by_ca',
    `${cert} (the issuer) is not signed by the CA in ${ca}: nobody would accept what it issues. Use the issuer of that CA, and put intermediates after it in its file.`,
    cert,
  );
}

function isSignedBy(certificate: Authority['parsed'][number], by: Authority['parsed'][number]): boolean {
  return certificate.checkIssued(by) && certificate.verify(by.publicKey);
}

async function signatureOf({ cert, key }: IssuerOptions): Promise<string> {
  const parts = [cert, key].map(async (file) => {
    try {
      const { dev, ino, size, mtimeMs, ctimeMs } = await stat(file);
      return `${dev}:${ino}:${size}:${mtimeMs}:${ctimeMs}`;
    } catch (error) {
      return String((error as NodeJS.ErrnoException).code);
    }
  });
  return (await Promise.all(parts)).join('|');
}
