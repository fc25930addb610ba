/** Who acts: what every permission is decided on, wherever it came from (a user's token, a certificate, the shell). */
import type { Scope } from './scope.js';

/** The roles that a token can carry until a tenant has grants of its own. */
export const roles = ['admin', 'operator', 'viewer'] as const;
export type Role = (typeof roles)[number];

export interface Actor {
  readonly tenantId: string;
  /** The token's `sub`, the certificate's name, or the shell's user. */
  readonly subject: string;
  /** To show to people. */
  readonly name?: string;
  readonly roles: readonly Role[];
  /** What the roles are narrowed to; null: not narrowed; empty: nothing is allowed. */
  readonly scopes: readonly Scope[] | null;
  readonly via: 'token' | 'certificate' | 'admin';
  /** When streams that this actor opened must end. */
  readonly tokenExpiresAt?: Date;
}

/** The administrator at the shell, acting in a tenant. */
export function adminActor(tenantId: string, user: string): Actor {
  return { tenantId, subject: user, roles: ['admin'], scopes: null, via: 'admin' };
}
