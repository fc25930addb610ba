/** The verbs and kinds that a grant names: that there are such, and that they go together. */
import type { FieldError } from '#libs/core';
import { grantableKinds, isKindOfResources } from '#libs/resources';

interface Asked {
  verbs: readonly string[];
  kinds: readonly string[];
  tagSelector?: string;
  resources?: readonly string[];
}

const crud = ['read', 'create', 'update', 'delete'];

export function nameErrors({ verbs, kinds, tagSelector, resources }: Asked): FieldError[] {
  const errors: FieldError[] = [];
  const refuse = (pointer: string, message: string) => errors.push({ pointer, code: 'invalid_value', message });
  const known = grantableKinds();
  for (const [index, kind] of kinds.entries()) {
    if (kind === '*' || known.some(({ name }) => name === kind)) continue;
    refuse(`/kinds/${index}`, `must be * or one of ${known.map(({ name }) => name).join(', ')}`);
  }
  const named = kinds.includes('*') ? known : known.filter(({ name }) => kinds.includes(name));
  const there = [...crud, ...new Set(named.flatMap(({ actions }) => actions))];
  for (const [index, verb] of verbs.entries()) {
    if (verb === '*' || there.includes(verb)) continue;
    refuse(`/verbs/${index}`, `must be * or one of ${there.join(', ')}`);
  }
  if (!resources) return errors;
  if (tagSelector !== undefined) refuse('/resources', 'cannot stand beside a tagSelector');
  if (kinds.length !== 1 || !isKindOfResources(kinds[0]!))
    refuse('/resources', 'need exactly one kind that has resources');
  const creates = verbs.indexOf('create');
  if (creates >= 0) refuse(`/verbs/${creates}`, 'cannot be given for resources that are there already');
  return errors;
}
