/** The CA of this replica, as the settings name it. A server whose issuer cannot be used says so and does not serve. */
import type { LoadedConfig } from '#libs/config';
import { CertificateIssuer, type CredentialsSource, PKI_EXIT_STATUS, PkiError } from '#libs/pki';
import type { Logger } from '#libs/process';

/** Null where none is configured. On a fault writes one line to stderr and ends the process with status 78. */
export async function openIssuer(
  program: string,
  { pki, grpc }: LoadedConfig<'grpc'>,
  credentials: CredentialsSource,
  log: Logger,
): Promise<CertificateIssuer | null> {
  const fail = (message: string) => {
    process.stderr.write(`${program}: ${message}\n`);
    return process.exit(PKI_EXIT_STATUS);
  };
  if (!pki?.issuer) {
    if (grpc.enrollment)
      fail('grpc.enrollment needs pki.issuer: {cert, key}, a CA to issue with. “rhyzome pki init” makes one.');
    return null;
  }
  const { cert, key, validityMs } = pki.issuer;
  const { trustDomain } = credentials.current.identity;
  const onRefused = ({ code, message }: PkiError) => log.error({ code }, `${message} The issuer before stays in use.`);
  try {
    return await CertificateIssuer.open({ cert, key, ca: pki.ca, trustDomain, validityMs, onRefused });
  } catch (error) {
    if (error instanceof PkiError) return fail(error.message);
    throw error;
  }
}
