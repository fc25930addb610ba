/** The Rhyzome scopes that a token can be narrowed to: an optional client scope each, in every realm. */
import { grantableKinds, isKindOfResources } from '#libs/resources';

const crud = ['create', 'read', 'update', 'delete'];

/** `kind:verb`, of all kinds that this process knows, either of them also `*`; sorted. */
export function narrowingScopes(): string[] {
  const ofKinds = grantableKinds().flatMap(({ name, actions }) => {
    const verbs = isKindOfResources(name) ? ['*', ...crud, ...actions] : ['read'];
    return verbs.map((verb) => `${name}:${verb}`);
  });
  return [...new Set(['*:*', '*:read', ...ofKinds])].sort();
}
