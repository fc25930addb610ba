/** Rhyzome scopes: `kind:verb`, either of them `*` (network:create, network:*, *:read, *:*). */

export interface Scope {
  /** A kind's name or `*`. */
  readonly kind: string;
  /** read, create, update, delete, an action's name, or `*`. */
  readonly verb: string;
}

const pattern = /^(\*|[a-z][a-z0-9-]{0,62}):(\*|[a-z][a-z0-9-]{0,62})$/;

/**
 * The Rhyzome scopes in a space-separated list (RFC 6749 §3.3); others (openid, profile …) are left out.
 * Null when there is none, which means: not narrowed.
 */
export function parseScopes(list: string): Scope[] | null {
  const scopes = list.split(' ').flatMap((word) => {
    const match = pattern.exec(word);
    // Keycloak's own scope of the same form: for which organization the token is (docs/keycloak.md).
    return match && match[1] !== 'organization' ? [{ kind: match[1]!, verb: match[2]! }] : [];
  });
  return scopes.length > 0 ? scopes : null;
}

const crud: ReadonlySet<string> = new Set(['create', 'read', 'update', 'delete']);

/** Whether a verb is an action of a kind (start, publish …) and not one of the four that every kind has. */
export function isAction(verb: string): boolean {
  return !crud.has(verb);
}

/** Whether a scope covers a verb on a kind. An action is covered by its own verb and by `update`. */
export function covers(scope: Scope, kind: string, verb: string): boolean {
  if (scope.kind !== '*' && scope.kind !== kind) return false;
  return scope.verb === '*' || scope.verb === verb || (scope.verb === 'update' && isAction(verb));
}

/** Whether all that a scope covers is covered by another one. */
export function scopeWithin(scope: Scope, other: Scope): boolean {
  return covers(other, scope.kind, scope.verb) && (scope.verb !== '*' || other.verb === '*');
}
