/**
 * What an actor reaches: of which resources of a kind it may do a verb. Made from the roles, the tenant's grants and the
 * token's scopes, once for each actor, kind and verb; libs/resources makes SQL of the same, so that lists show what
 * `authorize` allows. Pure functions.
 */
import { type Selector, selects, type Tags } from '#libs/core';
import type { Actor, Role } from './actor.js';
import { covers, isAction } from './scope.js';

/** All resources of a kind, or those that one of its members picks. */
export interface Reach {
  readonly all: boolean;
  readonly ids: ReadonlySet<string>;
  /** Values by tag key: a resource with any of these tags. */
  readonly pairs: ReadonlyMap<string, ReadonlySet<string>>;
  /** A resource that any of these picks. */
  readonly selectors: readonly Selector[];
  /** A resource that was made by one of these subjects. */
  readonly createdBy: readonly string[];
}

/** What of a resource its reach is decided on. */
export interface Reachable {
  readonly id?: string;
  /** Absent: not known, so that no selector picks it. */
  readonly tags?: Tags;
  readonly createdBy?: string;
}

export const everything: Reach = Object.freeze({
  all: true,
  ids: new Set<string>(),
  pairs: new Map<string, ReadonlySet<string>>(),
  selectors: [],
  createdBy: [],
});

/** Kinds that belong to a tenant's administration: operators read them only. */
export const administration: ReadonlySet<string> = new Set([
  'tenant',
  'realm',
  'grant',
  'quota',
  'user',
  'group',
  'serviceaccount',
  'apitoken',
]);

/** What administrators alone read, until a grant gives it to others; everybody reads API tokens of one’s own. */
export const confidential: ReadonlySet<string> = new Set(['audit', 'apitoken']);

/** The built-in meaning of a role. */
export function roleAllows(role: Role, verb: string, kind: string): boolean {
  switch (role) {
    case 'admin':
      return true;
    case 'operator':
      return verb === 'read' ? !confidential.has(kind) : !administration.has(kind);
    case 'viewer':
      return verb === 'read' && !confidential.has(kind);
  }
}

/** Whether a rule's verbs and kinds have this one. As with scopes, `update` has a kind's actions, too. */
export function ruleNames(
  rule: { readonly verbs: readonly string[]; readonly kinds: readonly string[] },
  verb: string,
  kind: string,
): boolean {
  if (!rule.kinds.includes(kind) && !rule.kinds.includes('*')) return false;
  return rule.verbs.includes(verb) || rule.verbs.includes('*') || (isAction(verb) && rule.verbs.includes('update'));
}

/** What everybody with a token may do with the API tokens that are their own. An API token cannot make further ones. */
export function everybodysOwn(actor: Actor, verb: string, kind: string): boolean {
  if (kind !== 'apitoken' || !['token', 'apitoken'].includes(actor.via)) return false;
  return verb === 'read' || verb === 'delete' || (verb === 'create' && actor.via === 'token');
}

const known = new WeakMap<Actor, Map<string, Reach>>();

/** What of a kind the actor may do a verb with, in its own tenant. Verbs: create, read, update, delete and actions. */
export function reachOf(actor: Actor, verb: string, kind: string): Reach {
  const reaches = known.get(actor) ?? new Map<string, Reach>();
  known.set(actor, reaches);
  const key = `${verb} ${kind}`;
  const reach = reaches.get(key) ?? computed(actor, verb, kind);
  reaches.set(key, reach);
  return reach;
}

function computed(actor: Actor, verb: string, kind: string): Reach {
  const { scopes, rules = [], redefinedRoles = [] } = actor;
  const ids = new Set<string>();
  const pairs = new Map<string, Set<string>>();
  const selectors: Selector[] = [];
  const createdBy: string[] = [];
  const reach: Reach = { all: false, ids, pairs, selectors, createdBy };
  if (scopes !== null && !scopes.some((scope) => covers(scope, kind, verb))) return reach;
  const isBuiltIn = (role: Role) => role === 'admin' || !redefinedRoles.includes(role);
  if (actor.roles.some((role) => isBuiltIn(role) && roleAllows(role, verb, kind))) return everything;
  for (const rule of rules) {
    if (!ruleNames(rule, verb, kind)) continue;
    if (rule.ids) for (const id of rule.ids) ids.add(id);
    else if (rule.selector) addSelector(pairs, selectors, rule.selector);
    else return everything;
  }
  if (everybodysOwn(actor, verb, kind)) createdBy.push(actor.subject);
  return reach;
}

/** Selectors of one value or more of one tag go together, so that a great many of them cost what one does. */
function addSelector(pairs: Map<string, Set<string>>, selectors: Selector[], selector: Selector): void {
  const [term] = selector;
  if (selector.length !== 1 || term?.op !== 'in') {
    selectors.push(selector);
    return;
  }
  const values = pairs.get(term.key) ?? new Set();
  for (const value of term.values) values.add(value);
  pairs.set(term.key, values);
}

/** Whether there may be anything in it. */
export function isEmpty(reach: Reach): boolean {
  const { all, ids, pairs, selectors, createdBy } = reach;
  return !all && ids.size === 0 && pairs.size === 0 && selectors.length === 0 && createdBy.length === 0;
}

/** Whether it has this resource. */
export function reaches(reach: Reach, { id, tags, createdBy }: Reachable): boolean {
  if (reach.all || (id !== undefined && reach.ids.has(id))) return true;
  if (createdBy !== undefined && reach.createdBy.includes(createdBy)) return true;
  if (!tags) return false;
  for (const [key, values] of reach.pairs) if (Object.hasOwn(tags, key) && values.has(tags[key]!)) return true;
  return reach.selectors.some((selector) => selects(selector, tags));
}
