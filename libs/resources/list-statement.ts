/**
 * The one statement that answers a page of a kind's list. It is built so that its cost follows from the page and not from
 * the tenant, whatever the planner believes about a tenant's size: rows are read in the order of the answer from the index
 * of what was asked (a walk); where no index has both, what matches is counted first, up to a limit and in the same
 * statement, and then either all of it is fetched and sorted, or the list is walked and filtered. Runs under `inOrder`.
 */

import { type RawBuilder, type RawNode, sql } from 'kysely';
import type { Reach } from '#libs/auth';
import { type Selector, type SelectorTerm, SYSTEM_TENANT } from '#libs/core';
import type { CoreRow, KindDefinition } from './kind.js';
import { isDense } from './list-density.js';
import {
  type Few,
  fewOfFilter,
  fewOfKey,
  fewOfName,
  fewOfOthers,
  fewOfReach,
  fewOfSets,
  fewOfState,
  fewOfTag,
} from './list-few.js';
import {
  afterOf,
  all,
  commonConditions,
  conditions,
  equals,
  type ListPlan,
  MAX_PREFIXES,
  newPlan,
  orderOf,
  othersTable,
  readable,
  type Sql,
  setsHold,
  setsTable,
  type ValuesTerm,
  withReachAsSelector,
} from './list-plan.js';
import type { ListQuery, QueryFilter } from './list-query.js';
import { lookupOf } from './readable.js';
import { selectionsOf } from './repository.js';

const MAX_COUNTED = 4; // conditions of one list

/** Reads whole rows of `resource` in order, at most a page. With a guard: only where that holds. */
interface Walk {
  rows: Sql;
  guard?: Sql;
}

/** The page of a kind's list, and one row more to know whether there is another. */
export function kindPage(
  kind: KindDefinition,
  tenantId: string,
  query: ListQuery,
  after: [string, string] | undefined,
  reach: Reach,
): RawBuilder<CoreRow> {
  const asked = newPlan(kind, tenantId, query, after, reach);
  const plan = mayLookAhead(asked) || isDense(reach, kind, query) ? asked : withReachAsSelector(asked);
  const rows = top(plan, [...branchesOf(plan), ...(kind.isShared ? [publishedWalk(plan)] : [])]);
  const near = plan.tables.has('passed') ? sql`, r.near` : sql``;
  return sql<CoreRow>`${withTables(plan)}select ${selectionsOf(kind)}${near} from (${rows}) r
    join ${sql.table(kind.table)} k on k.tenant_id = r.tenant_id and k.id = r.id order by ${orderOf(plan, 'r')}`;
}

/** What other tenants show to all, in the order of the index of that; there is little of it, compared with the rest. */
function publishedWalk(plan: ListPlan): Sql {
  return sql`select r.* from ${publishedRows(plan)} and ${conditions(plan)}
    order by ${orderOf(plan, 'r')} limit ${plan.limit}`;
}

function publishedRows({ kind, tenantId }: ListPlan): Sql {
  return sql`resource r where r.published and r.kind = ${kind.name} and r.tenant_id not in (${tenantId}, ${SYSTEM_TENANT})`;
}

/** How many match: costs as much as they are, or as the rarest thing that was asked; by indexes alone where it can. */
export function kindCount(
  kind: KindDefinition,
  tenantId: string,
  query: ListQuery,
  reach: Reach,
): RawBuilder<{ total: number }> {
  const plan = withReachAsSelector(newPlan(kind, tenantId, query, undefined, reach));
  const own = ownCount(plan);
  if (!kind.isShared) return own;
  return sql`select (${own}) + (select count(*) from ${publishedRows(plan)} and ${conditions(plan)}) as total`;
}

function ownCount(plan: ListPlan): RawBuilder<{ total: number }> {
  const { kind, reach } = plan;
  const { selector, filters } = plan.query;
  const lookup = kind.isShared ? undefined : lookupOf(reach);
  if (lookup) {
    // Of what it may read, as each tag of it has it.
    const rows = sql`select i.id from unnest(${lookup.ids}::uuid[]) i (id) union select t.resource_id
      from unnest(${lookup.keys}::text[], ${lookup.values}::text[]) v (key, value) join resource_tag t
        on t.tenant_id = ${plan.tenantId} and t.kind = ${kind.name} and t.key = v.key and t.value = v.value`;
    return sql`select count(*) as total from (${rows}) f cross join lateral (select from resource r
      where r.tenant_id = ${plan.tenantId} and r.id = f.id and r.kind = ${kind.name} and ${conditions(plan)} offset 0) r`;
  }
  const isOne = selector.length + filters.length === 1 && reach.all;
  const found = selector.find((term) => term.op === 'in') ?? selector.find((term) => term.op === 'exists');
  const [only] = filters;
  if (!found && only?.isOwn && isOne) {
    return sql`select count(*) as total from ${plan.tenants} join ${sql.table(kind.table)} k
      on k.tenant_id = tn.tenant_id where ${equals(only)}`;
  }
  if (!found) {
    return sql`select count(*) as total from ${plan.tenants} join resource r on r.tenant_id = tn.tenant_id
      where r.kind = ${kind.name} and ${all(filters.filter((filter) => !filter.isOwn).map(equals))} and ${conditions(plan)}`;
  }
  const value = found.op === 'in' ? sql`t.value = any (${found.values}::text[])` : sql`true`;
  const rows = sql`from ${plan.tenants} join resource_tag t on t.tenant_id = tn.tenant_id`;
  const tagged = sql`t.kind = ${kind.name} and t.key = ${found.key} and ${value}`;
  if (isOne) return sql`select count(*) as total ${rows} where ${tagged}`;
  return sql`select count(*) as total ${rows} join resource r on r.tenant_id = t.tenant_id and r.id = t.resource_id
    where ${tagged} and ${conditions(plan)}`;
}

function withTables({ tables }: ListPlan): Sql {
  if (tables.size === 0) return sql``;
  return sql`with recursive ${sql.join([...tables].map(([name, body]) => sql`${sql.raw(name)} as ${body}`))} `;
}

/** The first of all branches together. */
function top(plan: ListPlan, branches: readonly Sql[]): Sql {
  if (branches.length === 1) return branches[0]!;
  const union = sql.join(
    branches.map((branch) => sql`(${branch})`),
    sql` union all `,
  );
  return sql`select r.* from (${union}) r order by ${orderOf(plan, 'r')} limit ${plan.limit}`;
}

/** Guarded, so that exactly one of them reads anything: PostgreSQL does not start a branch whose guard is false. */
function branchesOf(plan: ListPlan): Sql[] {
  const { filters } = plan.query;
  const name = filters.find((filter) => filter.name === 'name');
  if (name) return [sql`${fetched(plan, fewOfName(plan, name))} order by ${orderOf(plan, 'r')} limit ${plan.limit}`];
  if (mayLookAhead(plan)) return [aheadOf(plan)];
  const walk = walkOf(plan);
  const branches: Sql[] = [];
  const others: Sql[] = [];
  for (const few of countedOf(plan, walk !== undefined)) {
    branches.push(sql`${fetched(plan, few)} where ${all([...others, few.guard])}`);
    others.push(sql`not ${few.guard}`);
  }
  const guarded = (rows: Sql, guards: readonly Sql[]) =>
    guards.length > 0 ? sql`select w.* from (${rows}) w where ${all(guards)}` : rows;
  const whole = coreWalk(plan, sql`true`);
  if (!walk?.guard) return [...branches, guarded(walk?.rows ?? whole, others)];
  return [
    ...branches,
    guarded(walk.rows, [...others, walk.guard]),
    guarded(whole, [...others, sql`not ${walk.guard}`]),
  ];
}

const mayLookAhead = ({ reach, kind, query, behind }: ListPlan): boolean =>
  query.filters.length + query.selector.length === 0 &&
  !reach.all &&
  !kind.isShared &&
  !behind &&
  !isDense(reach, kind, query);

const AHEAD = 6; // pages that are looked through before what the caller may read is looked up

/**
 * For who may read many resources, of a list that asks for nothing else: what comes next, as far as the caller may read it,
 * and behind that what is looked up or walked to, which is not begun where the page is full before (an Append is read from
 * its first part to its last).
 */
function aheadOf(plan: ListPlan): Sql {
  const { kind, query, tenantId, field, limit } = plan;
  const next = (columns: Sql, part: Sql) => sql`select ${columns} from resource r where r.tenant_id = ${tenantId}
    and r.kind = ${kind.name} and ${afterOf(plan, 'r')} order by ${orderOf(plan, 'r')} ${part}`;
  const rows = AHEAD * (query.pageSize + 1);
  const columns = sql.join([field, 'id'].map((name) => sql.ref(`r.${name}`)));
  plan.tables.set('passed', sql`materialized (${next(columns, sql`limit 1 offset ${rows - 1}`)})`);
  const rest = withReachAsSelector({ ...plan, after: undefined, behind: 'passed' });
  return sql`select r.* from ((select r.*, true as near from (${next(sql`r.*`, sql`limit ${rows}`)}) r where ${all(readable(plan))})
    union all (select r.*, false from (${top(rest, branchesOf(rest))}) r where exists (select from passed))) r limit ${limit}`;
}

/** What is counted first: conditions that are not the walk's own, and those that no walk has in this order. */
function countedOf(plan: ListPlan, hasWalk: boolean): Few[] {
  const { filters, selector } = plan.query;
  const lookup = plan.kind.isShared ? undefined : lookupOf(plan.reach);
  if (hasWalk && filters.length + selector.length === 1 && !lookup) return [];
  const makers: ((ordinal: number) => Few)[] = [];
  if (lookup && !isDense(plan.reach, plan.kind, plan.query)) makers.push((n) => fewOfReach(plan, lookup, n));
  for (const term of selector) if (term.op === 'in') makers.push((n) => fewOfTag(plan, term, n));
  for (const filter of filters) {
    if (filter.name === 'state') makers.push((n) => fewOfState(plan, filter, n));
    else makers.push((n) => fewOfFilter(plan, filter, n));
  }
  for (const term of selector) if (term.op === 'exists') makers.push((n) => fewOfKey(plan, term.key, n));
  const absent = selector.filter((term) => term.op === 'absent');
  if (absent.length > 0) makers.push((n) => fewOfSets(plan, absent, n));
  for (const term of selector) if (term.op === 'notin') makers.push((n) => fewOfOthers(plan, term, n));
  return makers.slice(0, MAX_COUNTED).map((make, n) => make(n));
}

/** What matched one condition, filtered by the others. `offset 0`: never a walk in order past what does not match. */
function fetched(plan: ListPlan, few: Few): Sql {
  return sql`select r.* from ${sql.raw(few.table)} f cross join lateral (select r.* from resource r
    where r.tenant_id = f.tenant_id and r.id = f.id and r.kind = ${plan.kind.name} and ${conditions(plan)} offset 0) r`;
}

/** The walk that has the most of what was asked in its index, undefined: only the whole list's. */
function walkOf(plan: ListPlan): Walk | undefined {
  const { field } = plan;
  const { selector, filters } = plan.query;
  const state = filters.find((filter) => filter.name === 'state');
  const own = filters.find((filter) => filter.isOwn && isColumn(filter));
  const stateWalk = state && { rows: coreWalk(plan, sql`r.state = ${state.value}`) };
  // Most resources are ready, and few are anything else.
  if (stateWalk && state.value !== 'ready') return stateWalk;
  const has = selector.find((term): term is ValuesTerm => term.op === 'in');
  if (has && field !== 'updated_at') {
    return { rows: tagWalk(plan, has.key, sql`unnest(${has.values}::text[]) v (value)`) };
  }
  if (own && field !== 'updated_at') return { rows: filterWalk(plan, own) };
  if (stateWalk) return stateWalk;
  if (field !== 'created_at') return undefined;
  const keys = selector.filter((term) => term.op === 'exists' || term.op === 'absent');
  if (keys.length > 0) return setWalk(plan, keys);
  const not = selector.find((term): term is ValuesTerm => term.op === 'notin');
  return not && othersWalk(plan, not);
}

const fewPrefixes = (table: string): Sql => sql`(select count(*) from ${sql.raw(table)}) <= ${sql.lit(MAX_PREFIXES)}`;

/** In the order of an index of `resource`, with `prefix` before the order. */
function coreWalk(plan: ListPlan, prefix: Sql): Sql {
  const { kind, limit, tenantId } = plan;
  const rows = (tenant: Sql) => sql`select r.* from resource r
    where r.tenant_id = ${tenant} and r.kind = ${kind.name} and ${prefix} and ${conditions(plan)}
    order by ${orderOf(plan, 'r')} limit ${limit}`;
  if (!kind.isShared) return rows(sql`${tenantId}`);
  return sql`select r.* from ${plan.tenants} cross join lateral (${rows(sql.ref('tn.tenant_id'))}) r
    order by ${orderOf(plan, 'r')} limit ${limit}`;
}

/** An expression has no index in the answer's order; a tenant has few of what is filtered so. */
function isColumn({ column }: QueryFilter): boolean {
  const { sqlFragments, parameters } = column.toOperationNode() as RawNode;
  return parameters.length === 1 && sqlFragments.every((fragment) => fragment === '');
}

/** In the order of the kind's own table, whose migration called filter_by for the column. */
function filterWalk(plan: ListPlan, walked: QueryFilter): Sql {
  const key = `resource_${plan.field}`;
  const rest = plan.query.filters.filter((filter) => filter.isOwn && filter !== walked).map(equals);
  const own = rest.length > 0 ? sql`coalesce(${all(rest)}, false)` : sql`true`;
  // `offset 0`: each of its rows is looked up by its id, and by nothing else that the resource could be found by.
  return sql`select r.* from ${plan.tenants} cross join lateral (select r.* from ${sql.table(plan.kind.table)} k
      cross join lateral (select r.* from resource r
        where r.tenant_id = k.tenant_id and r.id = k.id and ${all(commonConditions(plan))} offset 0) r
      where k.tenant_id = tn.tenant_id and ${equals(walked)} and ${own} and ${afterOf(plan, 'k', 'id', key)}
      order by ${orderOf(plan, 'k', 'id', key)} limit ${plan.limit}) r
    order by ${orderOf(plan, 'r')} limit ${plan.limit}`;
}

/** In the order of resource_tag, for each of some values of a key. */
function tagWalk(plan: ListPlan, key: string, values: Sql): Sql {
  return sql`select r.* from ${plan.tenants} cross join ${values} cross join lateral (select r.* from resource_tag t
      join resource r on r.tenant_id = t.tenant_id and r.id = t.resource_id
      where t.tenant_id = tn.tenant_id and t.kind = ${plan.kind.name} and t.key = ${key} and t.value = v.value
        and ${afterOf(plan, 't', 'resource_id')} and ${conditions(plan)}
      order by ${orderOf(plan, 't', 'resource_id')} limit ${plan.limit}) r
    order by ${orderOf(plan, 'r')} limit ${plan.limit}`;
}

/** For each set of keys that has what it must have and lacks what it must lack. */
function setWalk(plan: ListPlan, terms: Selector): Walk {
  const rows = sql`select r.* from ${sql.raw(setsTable(plan))} s cross join lateral (select r.* from resource r
      where r.tenant_id = s.tenant_id and r.kind = ${plan.kind.name} and r.tag_set = s.tag_set and ${conditions(plan)}
      order by ${orderOf(plan, 'r')} limit ${plan.limit}) r
    where ${setsHold(terms)} order by ${orderOf(plan, 'r')} limit ${plan.limit}`;
  return { rows, guard: fewPrefixes(setsTable(plan)) };
}

/** `k notin (…)`: the sets without the key, and the key's other values. */
function othersWalk(plan: ListPlan, term: ValuesTerm): Walk {
  const absent: SelectorTerm = { op: 'absent', key: term.key };
  const table = othersTable(plan, term);
  const values = sql`lateral (select o.value from ${sql.raw(table)} o
    where o.tenant_id = tn.tenant_id and o.value <> all (${term.values}::text[])) v`;
  return {
    rows: top(plan, [setWalk(plan, [absent]).rows, tagWalk(plan, term.key, values)]),
    guard: sql`(${fewPrefixes(setsTable(plan))} and ${fewPrefixes(table)})`,
  };
}
