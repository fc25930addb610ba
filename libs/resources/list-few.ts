/**
 * What a list's condition matches, found by its own index and counted up to a limit: so few rows are fetched and sorted;
 * where there are more, a walk in order finds a page soon enough. Each says an order that only the right index has, since
 * the planner takes any index of the tenant where it believes that all tenants' rows hold the condition.
 */

import { sql } from 'kysely';
import type { Selector } from '#libs/core';
import {
  type ListPlan,
  MAX_PREFIXES,
  othersTable,
  type Sql,
  setsHold,
  setsTable,
  type ValuesTerm,
} from './list-plan.js';
import type { QueryFilter } from './list-query.js';
import type { Lookup } from './readable.js';

/**
 * How many are few: from there on a walk through 50,000 rows finds the page at less cost than fetching all. (A page of P
 * out of m matches among N takes P · N / m steps of the walk; fetching takes m, each as dear as six of the walk's, which
 * finds its rows beside each other: they are even at √(P · N / 6).)
 */
const fewFor = (plan: ListPlan): Sql => sql`${Math.ceil(Math.sqrt(((plan.query.pageSize + 1) * 50_000) / 6))}::bigint`;

export interface Few {
  /** A table of (tenant_id, id). */
  table: string;
  /** True when it has all that match. */
  guard: Sql;
}

/** `rows`: the matches (id) below one of `prefixes` p. */
function few(plan: ListPlan, ordinal: number, prefixes: Sql, rows: Sql, further: Sql = sql``): Few {
  const table = `few${ordinal}`;
  plan.tables.set(
    `${table} (tenant_id, id)`,
    sql`materialized (select p.tenant_id, m.id from (${prefixes}) p cross join lateral (${rows} limit ${fewFor(plan)} + 1) m
      limit ${fewFor(plan)} + 1)`,
  );
  return { table, guard: sql`((select count(*) from ${sql.raw(table)}) <= ${fewFor(plan)}${further})` };
}

const tenants = (plan: ListPlan): Sql => sql`select tn.tenant_id from ${plan.tenants}`;

/** The kind's rows of `resource` that hold `condition`, as an index on it and `order` has them. */
const common = (plan: ListPlan, condition: Sql, order: Sql): Sql => sql`select r.id from resource r
  where r.tenant_id = p.tenant_id and r.kind = ${plan.kind.name} and ${condition} order by ${order}`;

const byCreation = sql`r.created_at, r.id`;

/** Its rows of resource_tag. */
const tagged = (plan: ListPlan, key: string, condition: Sql, order: Sql): Sql => sql`select t.resource_id as id
  from resource_tag t where t.tenant_id = p.tenant_id and t.kind = ${plan.kind.name} and t.key = ${key}${condition}
  order by ${order}`;

const oneValue = (plan: ListPlan, key: string): Sql =>
  tagged(plan, key, sql` and t.value = p.value`, sql`t.created_at, t.resource_id`);

export const fewOfName = (plan: ListPlan, { value }: QueryFilter): Few =>
  few(plan, 0, tenants(plan), common(plan, sql`r.name = ${value}`, sql`r.name`));

export const fewOfState = (plan: ListPlan, { value }: QueryFilter, ordinal: number): Few =>
  few(plan, ordinal, tenants(plan), common(plan, sql`r.state = ${value}`, byCreation));

/** Of a kind's own filter, by its index on (tenant_id, column). A range, because what is equal has no order. */
export const fewOfFilter = (plan: ListPlan, { column, value }: QueryFilter, ordinal: number): Few =>
  few(
    plan,
    ordinal,
    tenants(plan),
    sql`select k.id from ${sql.table(plan.kind.table)} k
      where k.tenant_id = p.tenant_id and ${column} >= ${value} and ${column} <= ${value} order by ${column}`,
  );

export const fewOfTag = (plan: ListPlan, term: ValuesTerm, ordinal: number): Few =>
  few(
    plan,
    ordinal,
    sql`select tn.tenant_id, v.value from ${plan.tenants} cross join unnest(${term.values}::text[]) v (value)`,
    oneValue(plan, term.key),
  );

export const fewOfKey = (plan: ListPlan, key: string, ordinal: number): Few =>
  few(plan, ordinal, tenants(plan), tagged(plan, key, sql``, sql`t.value, t.created_at`));

const areAll = (table: string): Sql => sql` and (select count(*) from ${sql.raw(table)}) <= ${sql.lit(MAX_PREFIXES)}`;

const sets = (plan: ListPlan, terms: Selector): Sql =>
  sql`select s.tenant_id, s.tag_set from ${sql.raw(setsTable(plan))} s where ${setsHold(terms)}`;

/** Of what the caller may read: by ids, and by tags of which each is some of it. A resource may be found by several. */
export function fewOfReach(plan: ListPlan, { ids, count, keys, values }: Lookup, ordinal: number): Few {
  const { tenantId } = plan;
  const tags = sql`select ${tenantId} as tenant_id, v.key, v.value
    from unnest(${keys}::text[], ${values}::text[]) v (key, value)`;
  const rows = sql`select t.resource_id as id from resource_tag t
    where t.tenant_id = p.tenant_id and t.kind = ${plan.kind.name} and t.key = p.key and t.value = p.value
    order by t.created_at, t.resource_id`;
  const { guard } = few(plan, ordinal, tags, rows);
  const found = `(select distinct u.tenant_id, u.id from (select * from few${ordinal} union all select * from named) u)`;
  plan.tables.set('named (tenant_id, id)', sql`(select ${tenantId}, i.id from unnest(${ids}::uuid[]) i (id))`);
  return { table: found, guard: sql`(${count}::bigint <= ${fewFor(plan)} and ${guard})` };
}

/** Of the sets that lack keys. */
export const fewOfSets = (plan: ListPlan, terms: Selector, ordinal: number): Few =>
  few(plan, ordinal, sets(plan, terms), common(plan, sql`r.tag_set = p.tag_set`, byCreation), areAll(setsTable(plan)));

/** Of `k notin (…)`: the sets without the key, and the key's other values. */
export function fewOfOthers(plan: ListPlan, term: ValuesTerm, ordinal: number): Few {
  const table = othersTable(plan, term);
  const absent = sets(plan, [{ op: 'absent', key: term.key }]);
  const prefixes = sql`(select a.tenant_id, a.tag_set, null as value from (${absent}) a) union all
    (select o.tenant_id, null, o.value from ${sql.raw(table)} o where o.value <> all (${term.values}::text[]))`;
  // A prefix is a set or a value; comparing with the null of the other one finds nothing.
  const rows = sql`select e.id from ((${common(plan, sql`r.tag_set = p.tag_set`, byCreation)}) union all
    (${oneValue(plan, term.key)})) e`;
  return few(plan, ordinal, prefixes, rows, sql`${areAll(setsTable(plan))}${areAll(table)}`);
}
