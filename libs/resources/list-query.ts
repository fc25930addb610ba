/** A list's query parameters, checked, and the one statement that answers it: keyset, so that page N costs what page 1 does. */

import { isIP } from 'node:net';
import { type RawBuilder, sql } from 'kysely';
import {
  type FieldError,
  invalid,
  isUuid,
  parseSelector,
  type Selector,
  SelectorError,
  type SelectorTerm,
} from '#libs/core';
import type { FilterDefinition } from './kind.js';

export const DEFAULT_PAGE_SIZE = 50;
export const MAX_PAGE_SIZE = 500;

export interface SortDefinition {
  column: RawBuilder<unknown>;
  /** In lists of kinds: the column of `resource`. */
  field?: 'name' | 'created_at' | 'updated_at';
  /** Cast for the page token's text. */
  cast: 'text' | 'timestamptz' | 'inet' | 'uuid';
  /** The row's value as text for the page token. */
  key(row: any): string;
}

/** A filter; of a kind's own table, or of what the list is of. */
export type ListFilter = FilterDefinition & { isOwn?: boolean };

export interface ListShape {
  filters: Record<string, ListFilter>;
  sorts: Record<string, SortDefinition>;
  defaultSort: string;
  hasTags: boolean;
}

type FilterValue = string | number | boolean | RawBuilder<unknown>;

export interface QueryFilter extends Pick<FilterDefinition, 'column'> {
  name: string;
  value: FilterValue;
  /** Of the kind's own table, not of `resource`. */
  isOwn: boolean;
}

export interface ListQuery {
  pageSize: number;
  pageToken?: string;
  sort: SortDefinition;
  descending: boolean;
  /** The number of all that match is wanted, too. */
  count: boolean;
  selector: Selector;
  filters: QueryFilter[];
  /** Canonical text of all but page size and token; page tokens are bound to it. */
  canonical: string;
}

type RawQuery = Record<string, unknown>;

/** Checks the parameters; all that is wrong at once. Throws RhyzomeError `invalid`. */
export function parseListQuery(shape: ListShape, raw: RawQuery): ListQuery {
  const errors: FieldError[] = [];
  const fail = (parameter: string, code: string, message: string) => errors.push({ parameter, code, message });
  const query: ListQuery = {
    pageSize: DEFAULT_PAGE_SIZE,
    sort: shape.sorts[shape.defaultSort]!,
    descending: false,
    count: false,
    selector: [],
    filters: [],
    canonical: '',
  };
  const canonical: [string, string][] = [];
  for (const [name, value] of Object.entries(raw)) {
    if (typeof value !== 'string') {
      fail(name, 'invalid_value', 'must be given once');
    } else if (name === 'pageSize') {
      const size = /^\d{1,9}$/.test(value) ? Number(value) : 0;
      if (size < 1) fail(name, 'out_of_range', `must be a number from 1 to ${MAX_PAGE_SIZE}`);
      query.pageSize = Math.min(size, MAX_PAGE_SIZE);
    } else if (name === 'pageToken') {
      query.pageToken = value;
    } else if (name === 'count') {
      if (value !== 'true' && value !== 'false') fail(name, 'wrong_type', 'must be true or false');
      query.count = value === 'true';
    } else if (name === 'sort') {
      canonical.push([name, value]);
      const field = value.startsWith('-') ? value.slice(1) : value;
      const sort = Object.hasOwn(shape.sorts, field) ? shape.sorts[field] : undefined;
      if (sort) query.sort = sort;
      else
        fail(name, 'invalid_value', `must be one of ${Object.keys(shape.sorts).join(', ')}, or one of them after "-"`);
      query.descending = value.startsWith('-');
    } else if (name === 'tagSelector' && shape.hasTags) {
      canonical.push([name, value]);
      query.selector = selectorOf(value, fail);
    } else if (Object.hasOwn(shape.filters, name)) {
      canonical.push([name, value]);
      addFilter(query, shape.filters[name]!, name, value, fail);
    } else {
      const known = [
        'pageSize',
        'pageToken',
        'count',
        'sort',
        ...(shape.hasTags ? ['tagSelector'] : []),
        ...Object.keys(shape.filters),
      ];
      fail(name, 'unknown_parameter', `is not a parameter here; there are ${known.join(', ')}`);
    }
  }
  if (errors.length > 0) throw invalid(errors);
  query.canonical = JSON.stringify(canonical.sort(([a], [b]) => (a < b ? -1 : 1)));
  return query;
}

type Fail = (parameter: string, code: string, message: string) => void;

/** Parses a selector, telling `fail` what is wrong with it. */
function selectorOf(text: string, fail: Fail): Selector {
  try {
    return parseSelector(text);
  } catch (error) {
    if (!(error instanceof SelectorError)) throw error;
    fail('tagSelector', 'invalid_format', error.message);
    return [];
  }
}

/** The selector of a parameter; throws RhyzomeError `invalid`. */
export function parseSelectorParameter(text: string): Selector {
  const errors: FieldError[] = [];
  const selector = selectorOf(text, (parameter, code, message) => errors.push({ parameter, code, message }));
  if (errors.length > 0) throw invalid(errors);
  return selector;
}

/** What PostgreSQL takes as `inet` with a prefix; host bits may be set, no range of ours is then equal. */
function isCidr(text: string): boolean {
  const [address = '', prefix = ''] = text.split('/', 2);
  const bits = { 0: -1, 4: 32, 6: 128 }[isIP(address)]!;
  return (
    !text.includes('%') &&
    /^(0|[1-9]\d{0,2})$/.test(prefix) &&
    Number(prefix) <= bits &&
    `${address}/${prefix}` === text
  );
}

const MAX_INT4 = 2 ** 31 - 1;

function addFilter(query: ListQuery, filter: ListFilter, name: string, text: string, fail: Fail): void {
  const { column, type, isOwn = false } = filter;
  const add = (value: FilterValue) => query.filters.push({ name, column, value, isOwn });
  if (text.length > 255 || /[\p{Cc}]/u.test(text)) {
    fail(name, 'invalid_value', 'must be at most 255 printable characters');
  } else if (type === 'integer') {
    // As bigint: the column may be narrower, and nothing is then equal.
    if (/^-?\d{1,15}$/.test(text)) add(Math.abs(Number(text)) > MAX_INT4 ? sql`${text}::bigint` : Number(text));
    else fail(name, 'wrong_type', 'must be a whole number');
  } else if (type === 'boolean') {
    if (text === 'true' || text === 'false') add(text === 'true');
    else fail(name, 'wrong_type', 'must be true or false');
  } else if (type === 'uuid') {
    if (isUuid(text)) add(text);
    else fail(name, 'invalid_format', 'must be an id');
  } else if (type === 'cidr') {
    if (isCidr(text)) add(sql`${text}::inet`);
    else fail(name, 'invalid_format', 'must be an address range, e.g. 10.0.0.0/24');
  } else {
    add(text);
  }
}

/** The condition of a selector's term on `r`, answered from the index of resource_tag. */
export function selectorCondition(term: SelectorTerm): RawBuilder<boolean> {
  const matching = sql`select 1 from resource_tag t
    where t.tenant_id = r.tenant_id and t.resource_id = r.id and t.key = ${term.key}`;
  switch (term.op) {
    case 'exists':
      return sql<boolean>`exists (${matching})`;
    case 'absent':
      return sql<boolean>`not exists (${matching})`;
    case 'notin':
      return sql<boolean>`not exists (${matching} and t.value in (${sql.join(term.values)}))`;
    case 'in':
      return sql<boolean>`exists (select 1 from resource_tag t where t.tenant_id = r.tenant_id and t.kind = r.kind
        and t.key = ${term.key} and t.value in (${sql.join(term.values)}) and t.resource_id = r.id)`;
  }
}

/** How many rows match, whatever the page. */
export function countStatement(from: RawBuilder<unknown>, base: RawBuilder<unknown>, query: ListQuery) {
  return sql<{
    total: number;
  }>`select count(*) as total from (${from} where ${sql.join(conditionsOf(base, query), sql` and `)}) matching`;
}

/** What a row has to be for the query to pick it, over the alias `r`. */
export function conditionsOf(base: RawBuilder<unknown>, query: ListQuery): RawBuilder<unknown>[] {
  return [
    base,
    ...query.filters.map(({ column, value }) => sql`${column} = ${value}`),
    ...query.selector.map(selectorCondition),
  ];
}

/** `<select> where <base> and …` in order, one row more than the page to know whether there is another. */
export function pageStatement<Row>(
  select: RawBuilder<Row>,
  base: RawBuilder<unknown>,
  query: ListQuery,
  after: [string, string] | undefined,
): RawBuilder<Row> {
  const direction = sql.raw(query.descending ? 'desc' : 'asc');
  const conditions = conditionsOf(base, query);
  if (after) {
    const comparison = sql.raw(query.descending ? '<' : '>');
    conditions.push(
      sql`(${query.sort.column}, r.id) ${comparison} (${after[0]}::${sql.raw(query.sort.cast)}, ${after[1]}::uuid)`,
    );
  }
  return sql<Row>`${select} where ${sql.join(conditions, sql` and `)}
    order by ${query.sort.column} ${direction}, r.id ${direction} limit ${query.pageSize + 1}`;
}
