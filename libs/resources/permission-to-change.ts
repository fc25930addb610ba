/**
 * What stands against a change before it is tried: permission for what is new or gets other tags, and for an answer that was
 * given before; and that nobody can change it this way, or not now.
 */
import { type Actor, type AuthorizationTarget, type Authorized, authorize, isAllowed } from '#libs/auth';
import { type ResourceCore, RhyzomeError, type Tags } from '#libs/core';
import type { Tx } from '#libs/db';
import type { StoredAnswer } from './idempotency.js';
import type { KindDefinition } from './kind.js';
import type { ResourceView } from './view.js';

/** With the tags that it shall have. Throws RhyzomeError `forbidden` with a pointer to them. */
export function authorizeTags<Verb extends string>(
  actor: Actor,
  verb: Verb,
  target: AuthorizationTarget,
): Authorized<Verb> {
  if (!isAllowed(actor, verb, target)) {
    const message = `your grants for ${target.kind}:${verb} reach none with these tags`;
    throw new RhyzomeError('forbidden', `You may not ${verb} a ${target.kind} with these tags.`, {
      errors: [{ pointer: '/tags', code: 'forbidden', message }],
    });
  }
  return authorize(actor, verb, target);
}

/**
 * For the answer of before: the resource as it is now, or as it was then where it has gone. Throws RhyzomeError
 * `not_found`, `forbidden`.
 */
export async function authorizeReplay(
  tx: Tx,
  actor: Actor,
  verb: string,
  { body }: StoredAnswer,
  asked: string,
): Promise<void> {
  const { tenantId } = actor;
  const told = body as ResourceView;
  const now = await tx
    .selectFrom('resource')
    .select(['tags', 'created_by'])
    .where('tenant_id', '=', tenantId)
    .where('id', '=', told.id)
    .executeTakeFirst();
  const tags = (now ? now.tags : told.tags) as Tags;
  const createdBy = (now ? now.created_by : told.createdBy) as string;
  authorize(actor, verb, { tenantId, kind: told.kind, id: told.id, tags, createdBy }, asked);
}

/** REST has no route for it; gRPC's verbs are the same for all kinds. */
export function refuseNotOffered(kind: KindDefinition, verb: string, actor: Actor): void {
  if (kind.administered && actor.via === 'admin') return;
  const offered: readonly string[] = kind.changes ?? ['create', 'update', 'delete'];
  if (offered.includes(verb) || Object.hasOwn(kind.actions ?? {}, verb)) return;
  throw new RhyzomeError('method_not_allowed', `Nobody can ${verb} ${kind.plural} this way.`);
}

/** Its create has failed: there is nothing to act on. */
export function notReady(kind: KindDefinition, core: ResourceCore): RhyzomeError {
  return new RhyzomeError(
    'not_ready',
    `The ${kind.name} “${core.name}” has failed; retry its job or delete it, its conditions say why.`,
  );
}
