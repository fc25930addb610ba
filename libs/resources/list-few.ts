/**
 * What a list's condition matches, found by its own index and counted up to a limit: so few rows are fetched and sorted;
 * where there are more, a walk in order finds a page soon enough.
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

/**
 * How many are few: from there on a walk through 50,000 rows finds the page at less cost than fetching all. (A page of P
 * out of m matches among N takes P · N / m steps of the walk, fetching takes m: they are even at √(P · N).)
 */
const fewFor = (plan: ListPlan): Sql => sql`${Math.ceil(Math.sqrt((plan.query.pageSize + 1) * 50_000))}::bigint`;

export interface Few {
  /** A table of (tenant_id, id). */
  table: string;
  /** True when it has all that match. */
  guard: Sql;
}

function few(plan: ListPlan, ordinal: number, body: Sql, further: Sql = sql``): Few {
  const table = `few${ordinal}`;
  plan.tables.set(`${table} (tenant_id, id)`, sql`materialized (${body} limit ${fewFor(plan)} + 1)`);
  return { table, guard: sql`((select count(*) from ${sql.raw(table)}) <= ${fewFor(plan)}${further})` };
}

/** The kind's rows of `resource` that hold `condition`. */
const common = (plan: ListPlan, condition: Sql) => sql`select r.tenant_id, r.id from ${plan.tenants}
  join resource r on r.tenant_id = tn.tenant_id where r.kind = ${plan.kind.name} and ${condition}`;

/** Its rows of resource_tag. */
const tagged = (
  plan: ListPlan,
  key: string,
  condition: Sql,
) => sql`select t.tenant_id, t.resource_id from ${plan.tenants}
  join resource_tag t on t.tenant_id = tn.tenant_id where t.kind = ${plan.kind.name} and t.key = ${key}${condition}`;

export const fewOfName = (plan: ListPlan, { value }: QueryFilter): Few =>
  few(plan, 0, common(plan, sql`r.name = ${value}`));

export const fewOfState = (plan: ListPlan, { value }: QueryFilter, ordinal: number): Few =>
  few(plan, ordinal, common(plan, sql`r.state = ${value}`));

/** Of a kind's own filter, by its index on (tenant_id, column). */
export const fewOfFilter = (plan: ListPlan, { column, value }: QueryFilter, ordinal: number): Few =>
  few(
    plan,
    ordinal,
    sql`select k.tenant_id, k.id from ${plan.tenants} join ${sql.table(plan.kind.table)} k on k.tenant_id = tn.tenant_id
      where ${column} = ${value}`,
  );

export const fewOfTag = (plan: ListPlan, term: ValuesTerm, ordinal: number): Few =>
  few(plan, ordinal, tagged(plan, term.key, sql` and t.value = any (${term.values}::text[])`));

export const fewOfKey = (plan: ListPlan, key: string, ordinal: number): Few =>
  few(plan, ordinal, tagged(plan, key, sql``));

const areAllSets = (table: string): Sql =>
  sql` and (select count(*) from ${sql.raw(table)}) <= ${sql.lit(MAX_PREFIXES)}`;

const ofSets = (plan: ListPlan, terms: Selector): Sql => sql`select r.tenant_id, r.id from ${sql.raw(setsTable(plan))} s
  join resource r on r.tenant_id = s.tenant_id and r.tag_set = s.tag_set where r.kind = ${plan.kind.name} and ${setsHold(terms)}`;

/** Of the sets that lack keys. */
export const fewOfSets = (plan: ListPlan, terms: Selector, ordinal: number): Few =>
  few(plan, ordinal, ofSets(plan, terms), areAllSets(setsTable(plan)));

/** Of `k notin (…)`: the sets without the key, and the key's other values. */
export function fewOfOthers(plan: ListPlan, term: ValuesTerm, ordinal: number): Few {
  const table = othersTable(plan, term);
  const others = sql`select t.tenant_id, t.resource_id from ${sql.raw(table)} o
    join resource_tag t on t.tenant_id = o.tenant_id and t.value = o.value
    where t.kind = ${plan.kind.name} and t.key = ${term.key} and o.value <> all (${term.values}::text[])`;
  const body = sql`select * from ((${ofSets(plan, [{ op: 'absent', key: term.key }])}) union all (${others})) o`;
  return few(plan, ordinal, body, sql`${areAllSets(setsTable(plan))}${areAllSets(table)}`);
}
