/**
 * The development PKI: a CA of its own for each data folder, the three certificates that the stack needs, and the issuer
 * for further nodes.
 */
import { isIP, SocketAddress } from 'node:net';
import {
  ensureIssuer,
  type IssueOptions,
  type IssuerFiles,
  initPki,
  issueCertificate,
  showCertificate,
  verifyCredentials,
} from '#libs/pki';

export interface CertificateFiles {
  ca: string;
  cert: string;
  key: string;
}

export interface DevCertificates {
  /** Of rhyzome-api and rhyzome-grpc. */
  server: CertificateFiles;
  node: CertificateFiles;
  /** What rhyzome-grpc signs the certificates of further nodes with. */
  issuer: Pick<IssuerFiles, 'cert' | 'key'>;
  /** Of the internal service that dev.json hands out. */
  service: CertificateFiles;
}

export const nodeName = 'node1';
export const serviceName = 'dev';
/** New ones are made when less is left: a stack may run for a while. */
const enoughDays = 30;

/** Makes what is missing, broken or about to expire. `nodesAt`: an address that the server's must hold for, too. */
export async function ensureCertificates(dir: string, nodesAt?: string): Promise<DevCertificates> {
  const ca = await initPki({ dir, name: 'Rhyzome development CA' });
  const ensure = async (options: Omit<IssueOptions, 'dir'>): Promise<CertificateFiles> => {
    const stem = `${dir}/${options.type}-${options.name}`;
    const files = { ca: ca.ca, cert: `${stem}.pem`, key: `${stem}-key.pem` };
    const found = await verifyCredentials(files);
    const lasts = found.ok && found.daysLeft >= enoughDays && (await holdsFor(files.cert, options.ip ?? []));
    if (!lasts) await issueCertificate({ dir, force: true, ...options });
    return files;
  };
  const ip = ['127.0.0.1', '::1', ...(nodesAt === undefined ? [] : [nodesAt])];
  return {
    server: await ensure({ type: 'server', name: 'rhyzome', dns: ['localhost'], ip }),
    // A root of before there were issuers is its own.
    issuer: (await ensureIssuer(dir)) ?? { cert: ca.ca, key: ca.caKey },
    node: await ensure({ type: 'node', name: nodeName }),
    service: await ensure({ type: 'service', name: serviceName }),
  };
}

/** Addresses are written in several ways (RFC 5952); these compare them. */
const numbersOf = (address: string) =>
  new SocketAddress({ address, family: isIP(address) === 6 ? 'ipv6' : 'ipv4' }).address;

async function holdsFor(file: string, addresses: readonly string[]): Promise<boolean> {
  const [leaf] = await showCertificate(file);
  const held = new Set(leaf?.ip.map(numbersOf));
  return addresses.every((address) => held.has(numbersOf(address)));
}
