/** Who acts: what every permission is decided on, wherever it came from (a user's token, a certificate, the shell). */
import type { Selector } from '#libs/core';
import type { Scope } from './scope.js';

/** The roles that a token can carry. What they mean is built in, until a tenant's grants say what operator and viewer do. */
export const roles = ['admin', 'operator', 'viewer'] as const;
export type Role = (typeof roles)[number];

/** What one grant of the tenant gives. */
export interface AccessRule {
  readonly grant: { readonly id: string; readonly name: string };
  /** read, create, update, delete, actions' names, or `*`. */
  readonly verbs: readonly string[];
  /** Kinds' names, or `*`. */
  readonly kinds: readonly string[];
  /** Only resources with these tags. Null, and `ids` null, too: all of the kinds. */
  readonly selector: Selector | null;
  /** Only these. */
  readonly ids: readonly string[] | null;
}

export interface Actor {
  readonly tenantId: string;
  /** The token's `sub`, the certificate's name, or the shell's user. */
  readonly subject: string;
  /** To show to people. */
  readonly name?: string;
  readonly roles: readonly Role[];
  /** Names, as in the token's claim; absent: none. */
  readonly groups?: readonly string[];
  /** What the roles and grants are narrowed to; null: not narrowed; empty: nothing is allowed. */
  readonly scopes: readonly Scope[] | null;
  readonly via: 'token' | 'apitoken' | 'certificate' | 'admin';
  /** When streams that this actor opened must end. */
  readonly tokenExpiresAt?: Date;
  /** What the tenant's grants give to it; absent: nothing. */
  readonly rules?: readonly AccessRule[];
  /** Roles of which the tenant's grants say what they mean, in place of the built-in meaning; absent: none. */
  readonly redefinedRoles?: readonly string[];
  /** The user or service account that the subject is, where Rhyzome keeps it. */
  readonly resourceId?: string;
}

/** The administrator at the shell, acting in a tenant. */
export function adminActor(tenantId: string, user: string): Actor {
  return { tenantId, subject: user, roles: ['admin'], scopes: null, via: 'admin' };
}
