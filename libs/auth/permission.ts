/**
 * The one place where permissions are decided. Pure functions of the actor, the verb and the resource's core: what the
 * roles and the tenant's grants allow, narrowed by the token's scopes, in the actor's own tenant.
 */
import { notFound, RhyzomeError, type Tags } from '#libs/core';
import { isEmpty, reaches, reachOf } from './access.js';
import type { Actor } from './actor.js';

/** What a permission is decided on; every ResourceCore is one. */
export interface AuthorizationTarget {
  readonly tenantId: string;
  readonly kind: string;
  readonly id?: string;
  readonly name?: string;
  /** Absent: not known; grants by tags then do not reach it. */
  readonly tags?: Tags;
  /** Subject that made it. */
  readonly createdBy?: string;
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

/**
 * Whether there may be any resource of a kind that the actor may do this with, in its own tenant. Verbs: create, read,
 * update, delete and each kind's actions; an action needs `kind:action` or `kind:update`.
 */
export function may(actor: Actor, verb: string, kind: string): boolean {
  return !isEmpty(reachOf(actor, verb, kind));
}

/** Whether the actor may do this with every resource of a kind in its tenant, those to come included. */
export function mayAll(actor: Actor, verb: string, kind: string): boolean {
  return reachOf(actor, verb, kind).all;
}

/** Whether the actor may list a kind (lists hold what it may read). */
export function mayList(actor: Actor, kind: string): boolean {
  return may(actor, 'read', kind);
}

/** Whether the actor may do this with this resource; what is public is read by whoever may read any of the kind. */
export function isAllowed(actor: Actor, verb: string, core: AuthorizationTarget): boolean {
  if (core.isPublic === true && verb === 'read') return may(actor, 'read', core.kind);
  return core.tenantId === actor.tenantId && reaches(reachOf(actor, verb, core.kind), core);
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
  if (isAllowed(actor, verb, core)) return Object.freeze({ actor, verb, core }) as Authorized<Verb>;
  const isOwn = core.tenantId === actor.tenantId;
  if ((verb === 'create' && isOwn) || isAllowed(actor, 'read', core)) throw forbidden(actor, verb, core.kind);
  throw notFound(core.kind, asked);
}

/** The refusal of something that the actor may know of. */
export function forbidden(actor: Actor, verb: string, kind: string): RhyzomeError {
  const why = may(actor, verb, kind)
    ? `your grants for ${kind}:${verb} do not reach this one`
    : `the permission ${kind}:${verb} is missing`;
  return new RhyzomeError('forbidden', `You may not ${verb} this ${kind}: ${why}.`);
}
