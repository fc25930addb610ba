/**
 * What an access token must look like, apart from its signature: RFC 9068 or Keycloak's shape. Pure functions; docs/keycloak.md
 * says the same in words.
 */
import type { IssuerEntry } from '#libs/tenants';
import { type Actor, type Role, roles } from './actor.js';
import { InvalidToken } from './bearer.js';
import { parseScopes } from './scope.js';

/** Asymmetric only: with a shared secret every service could make tokens, and `none` is no signature. */
export const allowedAlgorithms = ['RS256', 'PS256', 'ES256', 'EdDSA', 'Ed25519'];

/** Bytes of a token at most; Keycloak's with many roles stay far below. */
export const maxTokenBytes = 16_384;

const maxSubjectLength = 255;
/** What the audit trail calls others than users: no issuer may make a user look like one of them. */
const reservedSubject = /^(admin|service|node|account):/;

/** Checks the JOSE header before any key is looked up. */
export function checkHeader(header: { typ?: unknown; alg?: unknown }): void {
  if (typeof header.alg !== 'string' || !allowedAlgorithms.includes(header.alg)) {
    throw new InvalidToken('algorithm', `The token is not signed with one of ${allowedAlgorithms.join(', ')}.`);
  }
  const type = typeof header.typ === 'string' ? header.typ.toLowerCase().replace(/^application\//, '') : '';
  if (type !== 'at+jwt' && type !== 'jwt') {
    throw new InvalidToken('wrong_type', 'The token is no JWT access token (typ is neither at+jwt nor JWT).');
  }
}

/** The checks that the JWT library does not make. `now` and `leeway` in seconds. */
export function checkClaims(claims: Record<string, unknown>, now: number, leeway: number): void {
  const { typ, exp, iat, sub } = claims;
  if (typ !== undefined && typ !== 'Bearer') {
    throw new InvalidToken('wrong_type', 'The token is no access token (an ID or refresh token was sent).');
  }
  if (typeof exp !== 'number' || exp > 1e11) throw new InvalidToken('claim', 'The token has no usable exp claim.');
  if (exp <= now) throw new InvalidToken('expired', 'The token has expired.');
  if (typeof iat === 'number' && iat > now + leeway) {
    throw new InvalidToken('not_yet_valid', 'The token was issued in the future; check the clocks.');
  }
  if (typeof sub !== 'string' || sub === '' || sub.length > maxSubjectLength) {
    throw new InvalidToken('claim', `The token has no usable sub claim (1 to ${maxSubjectLength} characters).`);
  }
  if (/\p{Cc}/u.test(sub) || reservedSubject.test(sub)) {
    throw new InvalidToken(
      'claim',
      'The sub claim has control characters or begins like an administrator or a service.',
    );
  }
  if (claims.cnf !== undefined) {
    throw new InvalidToken('bound', 'The token is bound to a key (cnf); send one that is a plain bearer token.');
  }
}

/** The actor of claims that passed every check. */
export function actorOf(claims: Record<string, unknown>, entry: IssuerEntry): Actor {
  const scope = Array.isArray(claims.scope) ? claims.scope.join(' ') : claims.scope;
  const name = [claims.name, claims.preferred_username].find((value) => typeof value === 'string' && value !== '');
  return Object.freeze({
    tenantId: entry.tenantId,
    subject: claims.sub as string,
    ...(typeof name === 'string' && { name: name.slice(0, 255) }),
    roles: Object.freeze(rolesOf(claims.realm_access)),
    scopes: typeof scope === 'string' ? parseScopes(scope) : null,
    via: 'token',
    tokenExpiresAt: new Date((claims.exp as number) * 1000),
  });
}

function rolesOf(realmAccess: unknown): Role[] {
  const given = (realmAccess as { roles?: unknown } | null | undefined)?.roles;
  return Array.isArray(given) ? roles.filter((role) => given.includes(role)) : [];
}
