/**
 * The one place where permissions are decided. Pure functions of the actor, the verb and the resource's core: what the
 * roles allow, narrowed by the token's scopes, in the actor's own tenant.
 */
import { notFound, RhyzomeError } from '#libs/core';
import type { Actor, Role } from './actor.js';
import { covers } from './scope.js';

/** What a permission is decided on; every ResourceCore is one. */
export interface AuthorizationTarget {
  readonly tenantId: string;
  readonly kind: string;
  readonly id?: string;
  readonly name?: string;
  /** True for what every tenant may read: global and published images. */
  readonly isPublic?: boolean;
}

declare const authorized: unique symbol;

/** Proof that `authorize` said yes to this verb on this resource; repositories do not write without it. */
export interface Authorized<Verb extends string = string> {
  readonly actor: Actor;
  readonly verb: Verb;
  readonly core: AuthorizationTarget;
  readonly [authorized]: Verb;
}

/** Kinds that belong to a tenant's administration: operators read them only. */
const administration: ReadonlySet<string> = new Set(['tenant', 'grant', 'issuer', 'quota', 'user']);

function roleAllows(role: Role, kind: string, verb: string): boolean {
  switch (role) {
    case 'admin':
      return true;
    case 'operator':
      return verb === 'read' || !administration.has(kind);
    case 'viewer':
      return verb === 'read';
  }
}

/**
 * Whether the actor may do this to resources of a kind in its own tenant. Verbs: create, read, update, delete and each
 * kind's actions; an action needs `kind:action` or `kind:update`.
 */
export function may(actor: Actor, verb: string, kind: string): boolean {
  if (!actor.roles.some((role) => roleAllows(role, kind, verb))) return false;
  return actor.scopes === null || actor.scopes.some((scope) => covers(scope, kind, verb));
}

/** Whether the actor may list a kind (lists hold what it may read). */
export function mayList(actor: Actor, kind: string): boolean {
  return may(actor, 'read', kind);
}

/**
 * Says yes with a token, or throws: `not_found`, in the same words as for what does not exist, when the actor may not
 * even read it; `forbidden` otherwise, and for creates (that a kind exists is no secret).
 * @param asked the id or name as the client wrote it: a 404 repeats that, never a name the client may not know.
 */
export function authorize<Verb extends string>(
  actor: Actor,
  verb: Verb,
  core: AuthorizationTarget,
  asked: string = core.id ?? '',
): Authorized<Verb> {
  const isOwn = core.tenantId === actor.tenantId;
  const mayRead = (isOwn || core.isPublic === true) && may(actor, 'read', core.kind);
  const allowed = verb === 'read' ? mayRead : isOwn && may(actor, verb, core.kind);
  if (allowed) return Object.freeze({ actor, verb, core }) as Authorized<Verb>;
  if (mayRead || (verb === 'create' && isOwn)) {
    throw new RhyzomeError(
      'forbidden',
      `You may not ${verb} this ${core.kind}: the scope ${core.kind}:${verb} is missing.`,
    );
  }
  throw notFound(core.kind, asked);
}
