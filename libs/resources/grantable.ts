/**
 * What grants can name: every kind with the verbs that are its own, and what belongs to no kind and is permitted all the
 * same. The registry makes kinds known here, so that a kind of grants need not import the others.
 */
import type { ExplainedKind, GrantableKind } from '#libs/auth';
import type { KindDefinition } from './kind.js';

/** Read only: GET /v1/audit and GET /v1/quotas. */
const ofNoKind = ['audit', 'quota'];

interface Known extends GrantableKind, ExplainedKind {}

const known = new Map<string, Known>(ofNoKind.map((name) => [name, { name, actions: [], verbs: ['read'] }]));

export function knowVerbs({
  name,
  actions,
  verbs = [],
  changes = ['create', 'update', 'delete'],
}: KindDefinition): void {
  const own = [...Object.keys(actions ?? {}), ...verbs, 'metrics'];
  const crud = ['create', 'read', 'update', 'delete'].filter(
    (verb) => verb === 'read' || changes.some((one) => one === verb),
  );
  known.set(name, { name, actions: own, verbs: [...crud, ...own] });
}

/** By name, each with what can be done with it. `actions` are its verbs beside create, read, update and delete. */
export function grantableKinds(): Known[] {
  return [...known.values()].toSorted((a, b) => (a.name < b.name ? -1 : 1));
}

/** Whether it is a kind with resources, and not only something that is permitted. */
export function isKindOfResources(name: string): boolean {
  return known.has(name) && !ofNoKind.includes(name);
}
