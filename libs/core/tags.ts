/**
 * Tags and the selectors that pick resources by them. A selector is a list of terms that all hold. As in Kubernetes,
 * `k!=v` and `k notin (…)` also hold for what has no such tag.
 */

export type Tags = Record<string, string>;

export const tagKeyPattern = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/;
/** Printable: no control characters, no lone surrogates. */
const tagValuePattern = /^[^\p{Cc}\p{Cs}]{0,255}$/u;
export const MAX_TAGS = 64;
export const MAX_SELECTOR_TERMS = 16;
const MAX_SELECTOR_VALUES = 50;
const MAX_SELECTOR_LENGTH = 2048;

export interface TagProblem {
  /** Null: the whole. */
  key: string | null;
  code: 'too_many' | 'invalid_format' | 'wrong_type';
  message: string;
}

/** What is wrong with a value that should be tags; empty when it is fine. */
export function tagProblems(value: unknown): TagProblem[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    return [{ key: null, code: 'wrong_type', message: 'must be an object of strings' }];
  }
  const entries = Object.entries(value);
  const problems: TagProblem[] = [];
  if (entries.length > MAX_TAGS) {
    problems.push({ key: null, code: 'too_many', message: `must have at most ${MAX_TAGS} tags` });
  }
  for (const [key, text] of entries.slice(0, MAX_TAGS)) {
    if (!tagKeyPattern.test(key)) {
      problems.push({
        key,
        code: 'invalid_format',
        message: 'a tag key is 1-63 letters, digits, ".", "_", "/" or "-", starting with a letter or digit',
      });
    } else if (typeof text !== 'string') {
      problems.push({ key, code: 'wrong_type', message: 'a tag value must be a string' });
    } else if (!tagValuePattern.test(text)) {
      problems.push({ key, code: 'invalid_format', message: 'a tag value is up to 255 printable characters' });
    }
  }
  return problems;
}

export type SelectorTerm =
  | { op: 'exists' | 'absent'; key: string }
  | { op: 'in' | 'notin'; key: string; values: string[] };

export type Selector = readonly SelectorTerm[];

export class SelectorError extends Error {
  override readonly name = 'SelectorError';
}

/**
 * Parses `k`, `!k`, `k=v`, `k==v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, joined by commas.
 * Throws SelectorError with the place that is wrong.
 */
export function parseSelector(text: string): Selector {
  if (text.length > MAX_SELECTOR_LENGTH) {
    throw new SelectorError(`is longer than ${MAX_SELECTOR_LENGTH} characters`);
  }
  const terms = splitTerms(text).map(parseTerm);
  if (terms.length > MAX_SELECTOR_TERMS) throw new SelectorError(`has more than ${MAX_SELECTOR_TERMS} terms`);
  return terms;
}

function splitTerms(text: string): string[] {
  const terms: string[] = [];
  let depth = 0;
  let start = 0;
  for (let at = 0; at < text.length; at++) {
    const c = text[at];
    if (c === '(') depth++;
    else if (c === ')') depth--;
    else if (c === ',' && depth === 0) {
      terms.push(text.slice(start, at));
      start = at + 1;
    }
    if (depth < 0 || depth > 1) throw new SelectorError('has parentheses that do not match');
  }
  if (depth !== 0) throw new SelectorError('has parentheses that do not match');
  terms.push(text.slice(start));
  return terms;
}

function parseTerm(raw: string): SelectorTerm {
  const text = raw.trim();
  if (text === '') throw new SelectorError('has an empty term');
  const set = /^(\S+)\s+(in|notin)\s*\((.*)\)$/s.exec(text);
  if (set) {
    const values = set[3]!.split(',').map((v) => value(v.trim()));
    if (values.length > MAX_SELECTOR_VALUES) {
      throw new SelectorError(`has more than ${MAX_SELECTOR_VALUES} values in one term`);
    }
    return { op: set[2] as 'in' | 'notin', key: key(set[1]!), values };
  }
  if (text.startsWith('!')) return { op: 'absent', key: key(text.slice(1).trim()) };
  const equality = /^([^=!\s]+)\s*(!=|==?)\s*(.*)$/s.exec(text);
  if (equality) {
    return { op: equality[2] === '!=' ? 'notin' : 'in', key: key(equality[1]!), values: [value(equality[3]!)] };
  }
  return { op: 'exists', key: key(text) };
}

function key(text: string): string {
  if (!tagKeyPattern.test(text)) throw new SelectorError(`has a key that no tag can have: “${text.slice(0, 63)}”`);
  return text;
}

function value(text: string): string {
  if (!tagValuePattern.test(text)) throw new SelectorError('has a value that no tag can have');
  return text;
}

/** True if tags hold for every term. */
export function selects(selector: Selector, tags: Tags): boolean {
  return selector.every((term) => holds(term, Object.hasOwn(tags, term.key) ? tags[term.key] : undefined));
}

function holds(term: SelectorTerm, actual: string | undefined): boolean {
  switch (term.op) {
    case 'exists':
      return actual !== undefined;
    case 'absent':
      return actual === undefined;
    case 'in':
      return actual !== undefined && term.values.includes(actual);
    case 'notin':
      return actual === undefined || !term.values.includes(actual);
  }
}
