/**
 * Selectors as sets of resources: whether one lies in another, what two have in common, and how such a selector is
 * written down. A selector is a condition on each tag by itself, so both are decided exactly.
 */
import { parseSelector, type Selector, SelectorError, type SelectorTerm } from '#libs/core';

/** What a selector allows for one tag: some values or all but some, and whether the tag may be missing. */
interface Allowed {
  readonly mode: 'only' | 'except';
  readonly values: ReadonlySet<string>;
  readonly mayLack: boolean;
}

type Conditions = ReadonlyMap<string, Allowed>;

const anything: Allowed = { mode: 'except', values: new Set(), mayLack: true };

function allowedBy(term: SelectorTerm): Allowed {
  switch (term.op) {
    case 'exists':
      return { mode: 'except', values: new Set(), mayLack: false };
    case 'absent':
      return { mode: 'only', values: new Set(), mayLack: true };
    case 'in':
      return { mode: 'only', values: new Set(term.values), mayLack: false };
    case 'notin':
      return { mode: 'except', values: new Set(term.values), mayLack: true };
  }
}

function both(a: Allowed, b: Allowed): Allowed {
  const mayLack = a.mayLack && b.mayLack;
  if (a.mode === 'except') {
    if (b.mode === 'only') return both(b, a);
    return { mode: 'except', values: new Set([...a.values, ...b.values]), mayLack };
  }
  const stays = b.mode === 'only' ? (value: string) => b.values.has(value) : (value: string) => !b.values.has(value);
  return { mode: 'only', values: new Set([...a.values].filter(stays)), mayLack };
}

function isWithin(a: Allowed, b: Allowed): boolean {
  if (a.mayLack && !b.mayLack) return false;
  if (a.mode === 'except') return b.mode === 'except' && [...b.values].every((value) => a.values.has(value));
  return [...a.values].every((value) => b.values.has(value) === (b.mode === 'only'));
}

/** The same selectors are compared with a great many others. */
const known = new WeakMap<Selector, Conditions>();

function conditionsOf(selector: Selector): Conditions {
  const conditions = known.get(selector) ?? computed(selector);
  known.set(selector, conditions);
  return conditions;
}

function computed(selector: Selector): Conditions {
  const conditions = new Map<string, Allowed>();
  for (const term of selector) {
    conditions.set(term.key, both(conditions.get(term.key) ?? anything, allowedBy(term)));
  }
  return conditions;
}

const allowsNothing = ({ mode, values, mayLack }: Allowed) => mode === 'only' && values.size === 0 && !mayLack;

/** Whether no resource can ever be picked by it. */
export function isImpossible(selector: Selector): boolean {
  return [...conditionsOf(selector).values()].some(allowsNothing);
}

/** Whether everything that `inner` ever picks is picked by `outer`, too. */
export function selectsWithin(inner: Selector, outer: Selector): boolean {
  if (isImpossible(inner)) return true;
  const has = conditionsOf(inner);
  return [...conditionsOf(outer)].every(([key, allowed]) => isWithin(has.get(key) ?? anything, allowed));
}

/**
 * Whether everything that `inner` ever picks is picked by one or another of `outers`. Sound, and not complete: it looks
 * at each of them alone, and then at the values of each tag of `inner` one by one.
 */
export function selectsWithinAny(inner: Selector, outers: readonly Selector[]): boolean {
  const isWithinOne = (selector: Selector) => outers.some((outer) => selectsWithin(selector, outer));
  if (isWithinOne(inner)) return true;
  const has = conditionsOf(inner);
  return [...has].some(([key, { mode, values, mayLack }]) => {
    if (mode !== 'only' || mayLack) return false;
    const those = outers
      .map(conditionsOf)
      .filter((outer) =>
        [...outer].every(([other, allowed]) => other === key || isWithin(has.get(other) ?? anything, allowed)),
      );
    const isIn = (value: string) =>
      those.some((outer) => isWithin({ mode, values: new Set([value]), mayLack }, outer.get(key) ?? anything));
    return [...values].every(isIn);
  });
}

/** What both pick, with as few terms as say it; undefined: nothing. */
export function selectedByBoth(a: Selector, b: Selector): Selector | undefined {
  const terms: SelectorTerm[] = [];
  for (const [key, allowed] of conditionsOf([...a, ...b])) {
    if (allowsNothing(allowed)) return undefined;
    terms.push(...termsOf(key, allowed));
  }
  return terms;
}

function termsOf(key: string, { mode, values, mayLack }: Allowed): SelectorTerm[] {
  if (mode === 'only') return [mayLack ? { op: 'absent', key } : { op: 'in', key, values: [...values] }];
  const exists: SelectorTerm[] = mayLack ? [] : [{ op: 'exists', key }];
  if (values.size === 0) return exists;
  // What stands in a list has neither comma nor parenthesis; other values have a term each.
  const listed = [...values].filter(isListable);
  const others = [...values].filter((value) => !isListable(value));
  return [
    ...exists,
    ...(listed.length > 0 ? [{ op: 'notin' as const, key, values: listed }] : []),
    ...others.map((value) => ({ op: 'notin' as const, key, values: [value] })),
  ];
}

/** Whether a value can stand in `k in (…)`. */
export function isListable(value: string): boolean {
  return !/[(),]/.test(value) && value === value.trim();
}

function termText(term: SelectorTerm): string {
  switch (term.op) {
    case 'exists':
      return term.key;
    case 'absent':
      return `!${term.key}`;
    case 'in':
      if (term.values.length === 1)
        return `${term.key}${term.values[0]!.startsWith('=') ? '==' : '='}${term.values[0]}`;
      return `${term.key} in (${term.values.join(',')})`;
    case 'notin':
      if (term.values.length === 1) return `${term.key}!=${term.values[0]}`;
      return `${term.key} notin (${term.values.join(',')})`;
  }
}

/** The text that `parseSelector` reads as this selector; undefined where it cannot be said within its limits. */
export function selectorText(selector: Selector): string | undefined {
  const text = selector.map(termText).join(',');
  try {
    const read = parseSelector(text);
    return selectsWithin(read, selector) && selectsWithin(selector, read) ? text : undefined;
  } catch (error) {
    if (error instanceof SelectorError) return undefined;
    throw error;
  }
}
