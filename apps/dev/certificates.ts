/** The development PKI: a CA of its own for each data folder and the three certificates that the stack needs. */
import { type IssueOptions, initPki, issueCertificate, verifyCredentials } from '#libs/pki';

export interface CertificateFiles {
  ca: string;
  cert: string;
  key: string;
}

export interface DevCertificates {
  /** Of rhyzome-api and rhyzome-grpc. */
  server: CertificateFiles;
  node: CertificateFiles;
  /** Of the internal service that dev.json hands out. */
  service: CertificateFiles;
}

export const nodeName = 'node1';
export const serviceName = 'dev';
/** New ones are made when less is left: a stack may run for a while. */
const enoughDays = 30;

/** Makes what is missing, broken or about to expire. */
export async function ensureCertificates(dir: string): Promise<DevCertificates> {
  const ca = await initPki({ dir, name: 'Rhyzome development CA' });
  const ensure = async (options: Omit<IssueOptions, 'dir'>): Promise<CertificateFiles> => {
    const stem = `${dir}/${options.type}-${options.name}`;
    const files = { ca: ca.ca, cert: `${stem}.pem`, key: `${stem}-key.pem` };
    const found = await verifyCredentials(files);
    if (!found.ok || found.daysLeft < enoughDays) await issueCertificate({ dir, force: true, ...options });
    return files;
  };
  return {
    server: await ensure({ type: 'server', name: 'rhyzome', dns: ['localhost'], ip: ['127.0.0.1', '::1'] }),
    node: await ensure({ type: 'node', name: nodeName }),
    service: await ensure({ type: 'service', name: serviceName }),
  };
}
