/**
 * What an access token must look like, apart from its signature: RFC 9068 or Keycloak's shape. Pure functions; docs/keycloak.md
 * says the same in words.
 */
import type { IssuerEntry, IssuerTenant } from '#libs/tenants';
import { type Actor, roles } from './actor.js';
import { InvalidToken } from './bearer.js';
import { parseScopes } from './scope.js';

/** Asymmetric only: with a shared secret every service could make tokens, and `none` is no signature. */
export const allowedAlgorithms = ['RS256', 'PS256', 'ES256', 'EdDSA', 'Ed25519'];

/** Bytes of a token at most; Keycloak's with many roles stay far below. */
export const maxTokenBytes = 16_384;

const maxSubjectLength = 255;
/** Of a token that is refused beyond them: which ones to leave out would be chance. */
const maxGroups = 200;
/** Of a path, too. */
const maxGroupLength = 512;
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

/** RFC 7519 §4.1.3: a string or a list of them. */
export function checkAudience(claim: unknown, audience: string): void {
  const isFor = Array.isArray(claim) ? claim.includes(audience) : claim === audience;
  if (!isFor) throw new InvalidToken('wrong_audience', 'The token is for another audience.');
}

/**
 * The organization that decides whose a token of a shared issuer is: Keycloak's claim `organization`, a list of names or
 * an object with a member a name, of exactly one. An issuer with an owner has none: ''.
 */
export function organizationOf(claims: Record<string, unknown>, entry: IssuerEntry): string {
  if (entry.owner) return '';
  const { organization } = claims;
  const isObject = typeof organization === 'object' && organization !== null;
  const names: unknown[] = Array.isArray(organization) ? organization : isObject ? Object.keys(organization) : [];
  const [name] = names;
  if (names.length !== 1 || typeof name !== 'string' || name === '') {
    const found = names.length > 1 ? 'more than one organization' : 'no organization';
    throw new InvalidToken('organization', `The token names ${found}: ask for the scope organization:<your tenant>.`);
  }
  return name;
}

/** The actor of claims that passed every check. `isShared`: the realm holds other tenants' people, too. */
export function actorOf(claims: Record<string, unknown>, { tenantId }: IssuerTenant, isShared: boolean): Actor {
  const scope = Array.isArray(claims.scope) ? claims.scope.join(' ') : claims.scope;
  const name = [claims.name, claims.preferred_username].find((value) => typeof value === 'string' && value !== '');
  const given = isShared ? givenInside(tenantId, claims) : givenInRealm(claims);
  const groups = [...new Set(given.groups)];
  if (groups.length > maxGroups) {
    throw new InvalidToken('claim', `The token names more than ${maxGroups} groups; ask for one that names fewer.`);
  }
  return Object.freeze({
    tenantId,
    subject: claims.sub as string,
    ...(typeof name === 'string' && { name: name.slice(0, 255) }),
    roles: Object.freeze(roles.filter((role) => given.roles.includes(role))),
    groups: Object.freeze(groups),
    scopes: typeof scope === 'string' ? parseScopes(scope) : null,
    via: 'token',
    tokenExpiresAt: new Date((claims.exp as number) * 1000),
  });
}

interface Given {
  roles: readonly unknown[];
  groups: string[];
}

/** A realm of the tenant's own: its roles, and its groups by name; Keycloak's full paths begin with a slash. */
function givenInRealm(claims: Record<string, unknown>): Given {
  const given = (claims.realm_access as { roles?: unknown } | null | undefined)?.roles;
  const names = groupsIn(claims).map((name) => name.replace(/^\//, ''));
  return { roles: Array.isArray(given) ? given : [], groups: names.filter((name) => name !== '') };
}

/**
 * A realm that tenants share: what stands below the tenant's own group counts, `/<tenant>/roles/<role>` and
 * `/<tenant>/groups/<name>`. Roles of the realm are not the tenant's to give, so they give nothing.
 */
function givenInside(tenantId: string, claims: Record<string, unknown>): Given {
  const below = (part: string) => {
    const prefix = `/${tenantId}/${part}/`;
    const paths = groupsIn(claims).filter((path) => path.startsWith(prefix));
    return paths.map((path) => path.slice(prefix.length)).filter((name) => name !== '' && !name.includes('/'));
  };
  return { roles: below('roles'), groups: below('groups') };
}

/** Names that nobody could have given to a group in Rhyzome are left out, as roles are that it does not know. */
function groupsIn({ groups }: Record<string, unknown>): string[] {
  if (!Array.isArray(groups)) return [];
  return groups.filter((name) => typeof name === 'string' && name.length <= maxGroupLength && !/\p{Cc}/u.test(name));
}
