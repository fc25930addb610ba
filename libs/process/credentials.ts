/** Credentials of a process that may not run without good ones: it says which file and why, and ends. */

import type { Logger } from 'pino';
import {
  type CredentialPaths,
  type CredentialsSource,
  finishInstall,
  PKI_EXIT_STATUS,
  PkiError,
  watchCredentials,
} from '#libs/pki';

/** Loads and watches; on a fault writes one line to stderr and ends the process with status 78. */
export async function credentialsOrExit(
  program: string,
  paths: CredentialPaths | undefined,
  type: 'server' | 'node',
  log: Logger,
): Promise<CredentialsSource> {
  try {
    if (!paths) throw new PkiError('file_missing', 'the configuration names no pki: {ca, cert, key}.');
    await finishInstall(paths);
    const source = await watchCredentials(paths, {
      onChange: ({ notAfter }) => log.info({ notAfter }, 'the certificate was reloaded'),
      onRefused: ({ code, message }) => log.error({ code }, `${message} The certificate before stays in use.`),
    });
    const { identity } = source.current;
    if (identity.type === type) return source;
    source.close();
    throw new PkiError(
      'identity_malformed',
      `${paths.cert} is the certificate of ${identity.type} ${identity.name}; ${program} needs that of a ${type}.`,
    );
  } catch (error) {
    if (!(error instanceof PkiError)) throw error;
    process.stderr.write(`${program}: ${error.message}\n`);
    return process.exit(PKI_EXIT_STATUS);
  }
}
