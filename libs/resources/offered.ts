/** What can be done with a kind at all, whoever asks: users what its manifest says, the administrator also the rest. */
import type { Actor } from '#libs/auth';
import { RhyzomeError } from '#libs/core';
import type { KindDefinition } from './kind.js';

/** REST has no route for it; gRPC's verbs are the same for all kinds. Throws RhyzomeError `method_not_allowed`. */
export function refuseNotOffered(kind: KindDefinition, verb: string, actor: Actor): void {
  if (kind.administered && actor.via === 'admin') return;
  const offered: readonly string[] = kind.changes ?? ['create', 'update', 'delete'];
  if (offered.includes(verb) || Object.hasOwn(kind.actions ?? {}, verb)) return;
  throw new RhyzomeError('method_not_allowed', `Nobody can ${verb} ${kind.plural} this way.`);
}
