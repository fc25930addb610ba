/**
 * What an actor may do and why, in words: the roles, grants and scopes that access.ts decides on, told one by one. Pure
 * functions; a property test holds them to `isAllowed`.
 */
import { type Selector, type SelectorTerm, selects, type Tags } from '#libs/core';
import { everybodysOwn, roleAllows, ruleNames } from './access.js';
import type { AccessRule, Actor, Role } from './actor.js';
import { type AuthorizationTarget, isAllowed } from './permission.js';
import { covers } from './scope.js';
import { selectorText } from './selector-sets.js';

export interface ExplainedKind {
  readonly name: string;
  /** All that anybody can do with it. */
  readonly verbs: readonly string[];
}

/** Where a permission comes from. */
export type Because = { role: Role } | { grant: { id: string; name: string } } | { own: true };

export interface Permission {
  kind: string;
  verbs: string[];
  where: 'all' | { tagSelector: string } | { resources: readonly string[] } | { createdBy: string };
  because: Because;
}

export interface Reason {
  allows: boolean;
  /** In words. */
  message: string;
  /** Absent: it is about all of them. */
  because?: Because;
}

/** All that an actor may do, by kind; what nobody can do with a kind is left out. */
export function permissionsOf(actor: Actor, kinds: readonly ExplainedKind[]): Permission[] {
  return kinds.flatMap(({ name: kind, verbs }) => {
    const open = verbs.filter((verb) => isInScopes(actor, verb, kind));
    const some = (where: Permission['where'], because: Because, isIn: (verb: string) => boolean): Permission[] => {
      const held = open.filter(isIn);
      return held.length > 0 ? [{ kind, verbs: held, where, because }] : [];
    };
    return [
      ...builtInRoles(actor).flatMap((role) => some('all', { role }, (verb) => roleAllows(role, verb, kind))),
      ...(actor.rules ?? []).flatMap((rule) =>
        some(whereOf(rule), { grant: rule.grant }, (verb) => ruleNames(rule, verb, kind)),
      ),
      ...some({ createdBy: actor.subject }, { own: true }, (verb) => everybodysOwn(actor, verb, kind)),
    ];
  });
}

function whereOf({ ids, selector }: AccessRule): Permission['where'] {
  if (ids) return { resources: ids };
  return selector ? { tagSelector: textOf(selector) } : 'all';
}

/** It was read from text, so there is one. */
const textOf = (selector: Selector): string => selectorText(selector) ?? '';

function builtInRoles({ roles, redefinedRoles = [] }: Actor): Role[] {
  return roles.filter((role) => role === 'admin' || !redefinedRoles.includes(role));
}

function isInScopes({ scopes }: Actor, verb: string, kind: string): boolean {
  return scopes === null || scopes.some((scope) => covers(scope, kind, verb));
}

/** Why an actor may do a verb with a resource, or what was looked at and does not allow it. */
export function explain(
  actor: Actor,
  verb: string,
  core: AuthorizationTarget,
): { allowed: boolean; reasons: Reason[] } {
  const allowed = isAllowed(actor, verb, core);
  const scoped = scopesReason(actor, verb, core.kind);
  if (scoped) return { allowed, reasons: [scoped] };
  const all = [
    ...actor.roles.map((role) => roleReason(actor, role, verb, core.kind)),
    ...(actor.rules ?? []).map((rule) => ruleReason(rule, verb, core)),
    ...ownReason(actor, verb, core),
  ];
  const allowing = all.filter(({ allows }) => allows);
  if (allowing.length > 0) return { allowed, reasons: allowing };
  if (allowed)
    return { allowed, reasons: [{ allows: true, message: `It is open to all who may read any ${core.kind}.` }] };
  return { allowed, reasons: all.length > 0 ? all : [nothing(actor)] };
}

/** The same of a kind as a whole: whether there may be any resource of it that the actor may do the verb with. */
export function explainKind(actor: Actor, verb: string, kind: string): { allowed: boolean; reasons: Reason[] } {
  const held = permissionsOf(actor, [{ name: kind, verbs: [verb] }]);
  if (held.length === 0) return explain(actor, verb, { tenantId: actor.tenantId, kind });
  const reasons = held.map(({ where, because }): Reason => {
    const who =
      'role' in because ? `The role ${because.role}` : 'grant' in because ? `The grant “${because.grant.name}”` : '';
    const of =
      where === 'all' ? `every ${kind}` : 'tagSelector' in where ? where.tagSelector : 'single resources by id';
    const message = who ? `${who} allows ${kind}:${verb} for ${of}.` : `Everybody may ${verb} an ${kind} of one’s own.`;
    return { allows: true, message, because };
  });
  return { allowed: true, reasons };
}

function nothing({ groups = [] }: Actor): Reason {
  const named = groups.length > 0 ? ` or one of the groups ${groups.slice(0, 20).join(', ')}` : '';
  return { allows: false, message: `There is no built-in role here, and no grant for this subject${named}.` };
}

function scopesReason({ scopes }: Actor, verb: string, kind: string): Reason | undefined {
  if (scopes === null || scopes.some((scope) => covers(scope, kind, verb))) return undefined;
  const has = scopes.slice(0, 20).map((scope) => `${scope.kind}:${scope.verb}`);
  const said = has.length > 0 ? `has the scopes ${has.join(', ')} only` : 'has no scope';
  return { allows: false, message: `The token ${said}, and needs ${kind}:${verb} whatever roles and grants allow.` };
}

function roleReason(actor: Actor, role: Role, verb: string, kind: string): Reason {
  const because = { role };
  if (!builtInRoles(actor).includes(role)) {
    const message = `The role ${role} means what the tenant’s grants for it say, and no longer what is built in.`;
    return { allows: false, message, because };
  }
  const allows = roleAllows(role, verb, kind);
  return { allows, message: `The role ${role} ${allows ? 'allows' : 'does not allow'} ${kind}:${verb}.`, because };
}

function ruleReason(rule: AccessRule, verb: string, core: AuthorizationTarget): Reason {
  const { grant, verbs, kinds, selector, ids } = rule;
  const because = { grant };
  const no = (why: string): Reason => ({ allows: false, message: `The grant “${grant.name}” ${why}`, because });
  if (!ruleNames(rule, verb, core.kind)) {
    const isOfKind = kinds.includes(core.kind) || kinds.includes('*');
    return no(isOfKind ? `is for ${verbs.join(', ')}, not ${verb}.` : `is for ${kinds.join(', ')}, not ${core.kind}.`);
  }
  if (ids) {
    if (core.id === undefined || !ids.includes(core.id)) return no('names other resources than this one.');
  } else if (selector) {
    if (!core.tags || !selects(selector, core.tags))
      return no(`is for ${textOf(selector)}${lack(selector, core.tags)}.`);
  }
  const where = ids ? 'this resource by id' : selector ? textOf(selector) : `every ${core.kind}`;
  return { allows: true, message: `The grant “${grant.name}” allows ${core.kind}:${verb} for ${where}.`, because };
}

/** What of the tags does not fit, as far as the selector names it. */
function lack(selector: Selector, tags: Tags | undefined): string {
  const term = tags && selector.find((one: SelectorTerm) => !selects([one], tags));
  if (!term) return '';
  return Object.hasOwn(tags, term.key)
    ? `, and this has ${term.key}=${tags[term.key]}`
    : `, and this has no ${term.key}`;
}

function ownReason(actor: Actor, verb: string, core: AuthorizationTarget): Reason[] {
  if (!everybodysOwn(actor, verb, core.kind)) return [];
  const allows = core.createdBy === actor.subject;
  const message = allows
    ? `Everybody may ${verb} an ${core.kind} of one’s own.`
    : `Everybody may ${verb} an ${core.kind} of one’s own; this one is somebody else’s.`;
  return [{ allows, message, because: { own: true } }];
}
