/**
 * Of which lists a reach has so much that a walk fills its pages at once. Only these take the plain statement: the one that
 * is prepared for all cases costs a third more, however little of it is run. What is remembered goes with the actor, and
 * says nothing about what a list shows.
 */
import type { Reach } from '#libs/auth';
import type { KindDefinition } from './kind.js';
import type { ListQuery } from './list-query.js';

const dense = new WeakMap<Reach, Set<string>>();

const listOf = ({ name }: KindDefinition, { sort, descending }: ListQuery): string =>
  `${name} ${sort.field} ${descending}`;

export function isDense(reach: Reach, kind: KindDefinition, query: ListQuery): boolean {
  return query.filters.length + query.selector.length === 0 && dense.get(reach)?.has(listOf(kind, query)) === true;
}

/** After each page: `rows` as they came, `near` where they were found close by; absent where nothing was said about it. */
export function noteDensity(
  reach: Reach,
  kind: KindDefinition,
  query: ListQuery,
  rows: readonly { near?: boolean }[],
): void {
  if (reach.all) return;
  const lists = dense.get(reach) ?? new Set();
  dense.set(reach, lists);
  if (rows.length <= query.pageSize || rows.at(-1)?.near === false) lists.delete(listOf(kind, query));
  else if (rows.at(-1)?.near) lists.add(listOf(kind, query));
}
