/** The Authorization header and its answer: RFC 6750 bearer tokens and the WWW-Authenticate challenge of a 401. */
import { RhyzomeError } from '#libs/core';

export type InvalidTokenReason =
  | 'missing'
  | 'malformed'
  | 'too_large'
  | 'wrong_type'
  | 'algorithm'
  | 'unknown_issuer'
  | 'tenant_suspended'
  | 'unknown_key'
  | 'signature'
  | 'expired'
  | 'not_yet_valid'
  | 'wrong_audience'
  | 'claim'
  | 'bound'
  | 'subject_disabled'
  | 'unknown_token'
  | 'organization'
  | 'wrong_host';

/** A 401. `reason` is for metrics and tests, `challenge` for the WWW-Authenticate header. */
export class InvalidToken extends RhyzomeError {
  readonly challenge: string;

  constructor(
    readonly reason: InvalidTokenReason,
    /** Printable ASCII without quotes and backslashes (RFC 6750 §3). */
    message: string,
    cause?: unknown,
  ) {
    super('unauthenticated', message, { cause });
    this.challenge =
      reason === 'missing'
        ? 'Bearer realm="rhyzome"'
        : `Bearer realm="rhyzome", error="invalid_token", error_description="${message}"`;
  }
}

/** The value of WWW-Authenticate for any `unauthenticated` error. */
export function challengeOf(error: unknown): string {
  return error instanceof InvalidToken ? error.challenge : 'Bearer realm="rhyzome"';
}

/** The token in an Authorization header (RFC 6750 §2.1). Throws InvalidToken when there is none. */
export function parseBearer(header: string | undefined): string {
  if (!header) throw new InvalidToken('missing', 'An access token is needed: Authorization: Bearer <token>.');
  const match = /^bearer +([^\s]+) *$/i.exec(header);
  if (!match?.[1]) throw new InvalidToken('missing', 'The Authorization header is not of the form: Bearer <token>.');
  return match[1];
}

/** The issuer that a token names, unverified: for records of refusals only. Undefined where it names none. */
export function claimedIssuer(header: string | undefined): string | undefined {
  const payload = /^bearer +[^\s.]+\.([^\s.]{1,8192})\./i.exec(header ?? '')?.[1];
  if (payload === undefined) return undefined;
  try {
    const claims = JSON.parse(Buffer.from(payload, 'base64url').toString()) as { iss?: unknown } | null;
    return typeof claims?.iss === 'string' ? claims.iss : undefined;
  } catch {
    return undefined; // It is no JWT.
  }
}
