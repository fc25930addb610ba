/** Another certificate for the one who has one: asked for over it, with a new key, and put in its place. */
import * as grpc from '@grpc/grpc-js';
import {
  type Credentials,
  type CredentialsSource,
  fixedCredentials,
  installNext,
  PkiError,
  requestForNextKey,
} from '#libs/pki';
import { createChannel } from './client.js';
import { CertificateServiceClient, type RenewResponse } from './generated/rhyzome/v1/certificate.js';

export interface RenewalTarget {
  /** `host:port` or `unix:/path` of a rhyzome-grpc. */
  target: string;
  serverName?: string;
  /** Which servers are not to be believed. */
  refusalOf?: CredentialsSource['refusalOf'];
}

const CALL_MS = 20_000;

/**
 * Over a connection of its own, so that it is the present certificate that is shown. The new files are in place when it
 * resolves; on any failure those before stay. Rejects with a ServiceError, PkiError or the file system's error.
 */
export async function renewCertificate(
  { target, serverName, refusalOf }: RenewalTarget,
  present: Credentials,
): Promise<Credentials> {
  const request = await requestForNextKey(present.paths);
  const credentials = { ...fixedCredentials(present), ...(refusalOf && { refusalOf }) };
  const channel = createChannel({ target, serverName, credentials, timeoutMs: CALL_MS });
  try {
    const client = channel.client(CertificateServiceClient);
    const { certificate } = await new Promise<RenewResponse>((resolve, reject) => {
      client.renew({ request }, new grpc.Metadata(), (error, answer) => (error ? reject(error) : resolve(answer)));
    });
    return await installNext(present.paths, { certificate }, ({ identity }) => {
      const { type, name, trustDomain } = present.identity;
      if (identity.type === type && identity.name === name && identity.trustDomain === trustDomain) return;
      throw new PkiError(
        'identity_malformed',
        `The controller gave a certificate of ${identity.type} ${identity.name}.`,
      );
    });
  } finally {
    channel.close();
  }
}
