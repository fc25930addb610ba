/**
 * What grants can name: every kind with the verbs that are its own, and what belongs to no kind and is permitted all the
 * same. The registry makes kinds known here, so that a kind of grants need not import the others.
 */
import type { GrantableKind } from '#libs/auth';
import type { KindDefinition } from './kind.js';

/** Read only: GET /v1/audit and GET /v1/quotas. */
const ofNoKind: readonly GrantableKind[] = ['audit', 'quota'].map((name) => ({ name, actions: [] }));

const known = new Map<string, GrantableKind>(ofNoKind.map((kind) => [kind.name, kind]));

export function knowVerbs({ name, actions = {}, verbs = [] }: KindDefinition): void {
  known.set(name, { name, actions: [...Object.keys(actions), ...verbs, 'metrics'] });
}

/** By name. Verbs beside `actions`: create, read, update, delete. */
export function grantableKinds(): GrantableKind[] {
  return [...known.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

/** Whether it is a kind with resources, and not only something that is permitted. */
export function isKindOfResources(name: string): boolean {
  return known.has(name) && !ofNoKind.some((kind) => kind.name === name);
}
