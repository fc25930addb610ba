/**
 * The one error of this library and the exit status of a process that may not serve for want of credentials. Messages
 * name the file, what is wrong with it and what to do; they never hold key material.
 */

/** EX_CONFIG of sysexits(3): the exit status of a server or agent whose credentials cannot be used. */
export const PKI_EXIT_STATUS = 78;

export type PkiErrorCode =
  | 'file_missing'
  | 'file_unreadable'
  | 'file_exists'
  | 'certificate_unparsable'
  | 'key_unparsable'
  | 'key_exposed'
  | 'key_mismatch'
  | 'certificate_expired'
  | 'certificate_not_yet_valid'
  | 'not_signed_by_ca'
  | 'not_a_ca'
  | 'identity_missing'
  | 'identity_ambiguous'
  | 'identity_malformed'
  | 'name_malformed'
  | 'request_refused'
  | 'certificate_revoked'
  | 'revocations_malformed';

/** Thrown by everything in libs/pki. */
export class PkiError extends Error {
  override readonly name = 'PkiError';
  constructor(
    readonly code: PkiErrorCode,
    message: string,
    /** The file that is at fault, when there is one. */
    readonly file?: string,
    options: { cause?: unknown } = {},
  ) {
    super(message, options);
  }
}
