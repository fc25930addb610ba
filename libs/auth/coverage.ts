/**
 * Whether somebody may give what a grant would give: nobody gives more than what he has himself at that moment. What
 * cannot be shown to be his is refused. Pure functions over the reaches of access.ts; they know no database.
 */
import type { Selector } from '#libs/core';
import { type Reach, type Reachable, reaches, reachOf } from './access.js';
import type { Actor } from './actor.js';
import { isAction } from './scope.js';
import { isListable, selectedByBoth, selectorText, selectsWithin, selectsWithinAny } from './selector-sets.js';

/** A kind that grants can name, and its actions. */
export interface GrantableKind {
  readonly name: string;
  readonly actions: readonly string[];
}

/** Which resources of the kinds: all, also those to come; those that a selector picks; or these, as they are now. */
export type Where =
  | { readonly is: 'all' }
  | { readonly is: 'selected'; readonly selector: Selector }
  | { readonly is: 'named'; readonly resources: readonly (Reachable & { readonly id: string })[] };

/** What a grant would give. `*` stands for all verbs, or for all kinds, also for those to come. */
export interface Given {
  readonly verbs: readonly string[];
  readonly kinds: readonly string[];
  readonly where: Where;
}

/** A verb on a kind, as the grant has them, that its author may not do with all of it. */
export interface Shortfall {
  readonly verb: string;
  readonly kind: string;
}

const crud = ['create', 'read', 'update', 'delete'] as const;
/** As a kind, a name that no kind has: only what is given for all kinds reaches it, as it will reach one to come. */
const anyKind = '*';

/** What of `asked` the author has not got; empty: he may give it. */
export function shortfalls(author: Actor, asked: Given, kinds: readonly GrantableKind[]): Shortfall[] {
  const reaching = oncePerReach((reach) => isWithinReach(asked.where, reach));
  const has = (verb: string, kind: string) =>
    // Who may update may do all actions, also those to come.
    (verb === '*' ? crud : [verb]).every((one) => reaching(reachOf(author, one, kind)));
  return asked.kinds.flatMap((kind) =>
    asked.verbs
      .filter(
        (verb) => !(kind === '*' ? [anyKind, ...kinds.map(({ name }) => name)] : [kind]).every((one) => has(verb, one)),
      )
      .map((verb) => ({ verb, kind })),
  );
}

/** Decides once for all reaches that are alike: those of most verbs and kinds are. */
function oncePerReach<Answer>(decide: (reach: Reach) => Answer): (reach: Reach) => Answer {
  const answers = new Map<string, Answer>();
  return (reach) => {
    const key = signatureOf(reach);
    if (!answers.has(key)) answers.set(key, decide(reach));
    return answers.get(key)!;
  };
}

const numbers = new WeakMap<Selector, number>();
let lastNumber = 0;

/** The same for reaches of the same rules. */
function signatureOf({ all, ids, pairs, selectors, createdBy }: Reach): string {
  const numbered = selectors.map((selector) => {
    const number = numbers.get(selector) ?? ++lastNumber;
    numbers.set(selector, number);
    return number;
  });
  return JSON.stringify([all, numbered, [...ids], [...pairs].map(([key, values]) => [key, [...values]]), createdBy]);
}

function isWithinReach(where: Where, reach: Reach): boolean {
  if (reach.all) return true;
  switch (where.is) {
    case 'all':
      return false;
    case 'selected':
      return selectsWithinAny(where.selector, selectorsOf(reach));
    case 'named':
      return where.resources.every((resource) => reaches(reach, resource));
  }
}

const MAX_LIST = 50;

/** The selectors of a reach, together with those that it keeps as pairs; each can be written down. */
function selectorsOf(reach: Reach): Selector[] {
  const ofPairs = [...reach.pairs].flatMap(([key, values]) => {
    const listed = [...values].filter(isListable);
    const lists: string[][] = [...values].filter((value) => !isListable(value)).map((value) => [value]);
    for (let at = 0; at < listed.length; at += MAX_LIST) lists.push(listed.slice(at, at + MAX_LIST));
    return lists.map((list): Selector => [{ op: 'in', key, values: list }]);
  });
  return [...ofPairs, ...reach.selectors];
}

/**
 * The part of `asked` that its author has: for who must never have more than the author, and shall have what of it there
 * is. Where a selector is asked for, what the author has only by ids is left out: it may lose its tags and keep its id.
 * Throws TooManyParts.
 */
export function cutTo(author: Actor, asked: Given, kinds: readonly GrantableKind[]): Given[] {
  const rows = new Map<string, { where: Where; verbs: string[]; kinds: string[] }>();
  const common = oncePerReach((reach) => overlap(asked.where, reach));
  const byAll = asked.kinds.includes('*') ? cutForAllKinds(author, asked, kinds, common) : new Map<string, Where[]>();
  const named = asked.kinds.includes('*') ? kinds : kinds.filter(({ name }) => asked.kinds.includes(name));
  addRows(rows, anyKind, asked, byAll);
  for (const kind of named) {
    const mine = cutForKind(author, asked, kind.name, kind.actions, common);
    for (const [verb, wheres] of mine) {
      mine.set(
        verb,
        wheres.filter((where) => !isWithinSome(where, byAll.get(verb) ?? [])),
      );
    }
    addRows(rows, kind.name, asked, mine);
  }
  return [...rows.values()];
}

/** By verb. What of all kinds, also of those to come, the author has: an administration's kinds may be less his. */
function cutForAllKinds(
  author: Actor,
  asked: Given,
  kinds: readonly GrantableKind[],
  common: (reach: Reach) => Where[],
): Map<string, Where[]> {
  const cut = cutForKind(author, asked, anyKind, [], common);
  for (const [verb, wheres] of cut) {
    const reaches = kinds.map(({ name }) => reachOf(author, verb, name));
    const different = [...new Map(reaches.map((reach) => [signatureOf(reach), reach])).values()];
    cut.set(
      verb,
      wheres.filter((where) => different.every((reach) => isWithinReach(where, reach))),
    );
  }
  return cut;
}

/** By verb, what of one kind the author has. */
function cutForKind(
  author: Actor,
  { verbs }: Given,
  kind: string,
  actions: readonly string[],
  common: (reach: Reach) => Where[],
): Map<string, Where[]> {
  const cut = new Map<string, Where[]>();
  for (const verb of verbs.flatMap((one) => (one === '*' ? crud : [one]))) {
    cut.set(verb, common(reachOf(author, verb, kind)));
  }
  const updated = cut.get('update');
  for (const action of updated ? actions : []) {
    const further = common(reachOf(author, action, kind)).filter((part) => !isWithinSome(part, updated!));
    cut.set(action, further);
  }
  return cut;
}

function overlap(where: Where, reach: Reach): Where[] {
  if (reach.all) return [where];
  switch (where.is) {
    case 'all':
      return [
        ...distinct(selectorsOf(reach)),
        ...(reach.ids.size > 0 ? [{ is: 'named' as const, resources: [...reach.ids].map((id) => ({ id })) }] : []),
      ];
    case 'selected':
      return distinct(
        selectorsOf(reach).flatMap((selector) => {
          const common = selectedByBoth(where.selector, selector);
          return common && selectorText(common) !== undefined ? [common] : [];
        }),
      );
    case 'named': {
      const resources = where.resources.filter((resource) => reaches(reach, resource));
      return resources.length > 0 ? [{ is: 'named', resources }] : [];
    }
  }
}

/** What somebody has in more parts than these is too much to give at once. */
export const MAX_PARTS = 100;

/** Thrown by `cutTo`. */
export class TooManyParts extends Error {
  override readonly name = 'TooManyParts';
}

/** Without those that lie in another. The widest come first, so that what is too much is soon found to be. */
function distinct(selectors: readonly Selector[]): Where[] {
  const kept: Selector[] = [];
  for (const selector of selectors.toSorted((a, b) => a.length - b.length)) {
    if (kept.some((other) => selectsWithin(selector, other))) continue;
    kept.splice(0, kept.length, ...kept.filter((other) => !selectsWithin(other, selector)), selector);
    if (kept.length > MAX_PARTS) throw new TooManyParts();
  }
  return kept.map((selector) => ({ is: 'selected', selector }));
}

function isWithinSome(where: Where, others: readonly Where[]): boolean {
  if (others.some((other) => other === where || other.is === 'all')) return true;
  switch (where.is) {
    case 'all':
      return false;
    case 'selected':
      return others.some((other) => other.is === 'selected' && selectsWithin(where.selector, other.selector));
    case 'named': {
      const ids = new Set(others.flatMap((other) => (other.is === 'named' ? other.resources.map(({ id }) => id) : [])));
      return where.resources.every(({ id }) => ids.has(id));
    }
  }
}

/** One row for each place and set of verbs, with all kinds that have it. */
function addRows(
  rows: Map<string, { where: Where; verbs: string[]; kinds: string[] }>,
  kind: string,
  asked: Given,
  cut: Map<string, Where[]>,
): void {
  const byWhere = new Map<string, { where: Where; verbs: string[] }>();
  for (const [verb, wheres] of cut) {
    for (const where of wheres) {
      const known = byWhere.get(keyOf(where)) ?? { where, verbs: [] };
      known.verbs.push(verb);
      byWhere.set(keyOf(where), known);
    }
  }
  for (const [key, { where, verbs }] of byWhere) {
    const isAll = asked.verbs.includes('*') && crud.every((verb) => verbs.includes(verb));
    const listed = isAll ? ['*'] : verbs.filter((verb) => !(isAction(verb) && verbs.includes('update')));
    const rowKey = `${listed.toSorted().join(' ')} ${key}`;
    const row = rows.get(rowKey) ?? { where, verbs: listed, kinds: [] };
    row.kinds.push(kind);
    rows.set(rowKey, row);
  }
}

function keyOf(where: Where): string {
  switch (where.is) {
    case 'all':
      return 'all';
    case 'selected':
      return JSON.stringify(where.selector);
    case 'named':
      return JSON.stringify(where.resources.map(({ id }) => id).toSorted());
  }
}
