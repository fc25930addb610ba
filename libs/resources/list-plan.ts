/** What the parts of a list's statement share: order, conditions on a row, and the prefixes that its walks go through. */

import { type RawBuilder, sql } from 'kysely';
import { everything, type Reach } from '#libs/auth';
import { type Selector, type SelectorTerm, SYSTEM_TENANT } from '#libs/core';
import type { KindDefinition } from './kind.js';
import type { ListQuery, QueryFilter } from './list-query.js';
import { isReached, reachedAs, selectorOfReach, termHolds } from './readable.js';

/** So many sets of tag keys, or values of one key, are walked beside each other. */
export const MAX_PREFIXES = 32;

export type Sql = RawBuilder<unknown>;
export type ValuesTerm = Extract<SelectorTerm, { values: string[] }>;

export interface ListPlan {
  kind: KindDefinition;
  tenantId: string;
  query: ListQuery;
  /** What the caller may read of it, beside what the query's selector says already. */
  reach: Reach;
  /** The column that is sorted by, before the id. */
  field: 'name' | 'created_at' | 'updated_at';
  /** Sort key and id of the last row of the page before. */
  after: [string, string] | undefined;
  /** A table of one row, of which the order and the id are where to go on instead; without rows: nowhere. */
  behind?: string;
  /** A table `tn (tenant_id)`: whose rows are listed. */
  tenants: Sql;
  limit: Sql;
  /** Common table expressions: name with columns, and body. */
  tables: Map<string, Sql>;
}

export function newPlan(
  kind: KindDefinition,
  tenantId: string,
  query: ListQuery,
  after: [string, string] | undefined,
  reach: Reach,
): ListPlan {
  const { field } = query.sort;
  if (!field) throw new Error('lists of kinds are sorted by what all resources have');
  const tenants = new Set(kind.isShared ? [tenantId, SYSTEM_TENANT] : [tenantId]);
  return {
    kind,
    tenantId,
    query: { ...query, selector: withoutDoubles(query.selector) },
    reach,
    field,
    after,
    tenants: sql`unnest(${[...tenants]}::text[]) tn (tenant_id)`,
    limit: sql`${query.pageSize + 1}`,
    tables: new Map(),
  };
}

/** Each value is walked for itself: one that is named twice would come twice. */
const withoutDoubles = (selector: Selector): Selector =>
  selector.map((term) => ('values' in term ? { ...term, values: [...new Set(term.values)] } : term));

/** A reach of one selector as one condition more of the query, which is found like any other. */
export function withReachAsSelector(plan: ListPlan): ListPlan {
  const further = plan.kind.isShared ? undefined : selectorOfReach(plan.reach);
  if (!further) return plan;
  const selector = [...plan.query.selector, ...withoutDoubles(further)];
  return { ...plan, query: { ...plan.query, selector }, reach: everything };
}

export const all = (parts: readonly Sql[]): Sql => (parts.length > 0 ? sql.join(parts, sql` and `) : sql`true`);

/** The answer's order, over the columns of an alias, which may have other names there. */
export function orderOf({ query, field }: ListPlan, alias: string, id = 'id', key: string = field): Sql {
  const direction = sql.raw(query.descending ? 'desc' : 'asc');
  return sql`${sql.ref(`${alias}.${key}`)} ${direction}, ${sql.ref(`${alias}.${id}`)} ${direction}`;
}

/** Behind the page before. */
export function afterOf(plan: ListPlan, alias: string, id = 'id', column: string = plan.field): Sql {
  const { query, field, after, behind } = plan;
  const comparison = sql.raw(query.descending ? '<' : '>');
  const key = sql.ref(`${alias}.${column}`);
  if (behind) {
    // Two sub-selects, since an index is not used for one of two columns.
    const of = (name: string) => sql`(select p.${sql.ref(name)} from ${sql.raw(behind)} p)`;
    return sql`(${key}, ${sql.ref(`${alias}.${id}`)}) ${comparison} (${of(field)}, ${of('id')})`;
  }
  if (!after) return sql`true`;
  return sql`(${key}, ${sql.ref(`${alias}.${id}`)}) ${comparison} (${after[0]}::${sql.raw(query.sort.cast)}, ${after[1]}::uuid)`;
}

export const equals = ({ column, value }: QueryFilter): Sql => sql`${column} = ${value}`;

/**
 * What a row `r` must hold, whichever way it was found. The selector is answered from the row itself; `coalesce` keeps the
 * planner from guessing how rare that is.
 */
export function conditions(plan: ListPlan): Sql {
  const parts = commonConditions(plan);
  const own = plan.query.filters.filter((filter) => filter.isOwn).map(equals);
  if (own.length > 0) {
    parts.push(sql`coalesce((select ${all(own)} from ${sql.table(plan.kind.table)} k
      where k.tenant_id = r.tenant_id and k.id = r.id), false)`);
  }
  return all(parts);
}

/** The same but a kind's own filters. */
export function commonConditions(plan: ListPlan): Sql[] {
  const { filters, selector } = plan.query;
  const held = [
    ...selector.map((term) => termHolds(term, sql.ref('r.tags'))),
    ...filters.filter((filter) => !filter.isOwn).map(equals),
  ];
  return [afterOf(plan, 'r'), ...(held.length > 0 ? [sql`coalesce(${all(held)}, false)`] : []), ...readable(plan)];
}

/** That the caller may read a row `r`; what others show to all is read by whoever may read any of the kind. */
export function readable({ kind, tenantId, reach }: ListPlan): Sql[] {
  if (reach.all) return [];
  const reached = isReached(reach, reachedAs('r'));
  return [kind.isShared ? sql`(r.tenant_id <> ${tenantId} or ${reached})` : reached];
}

/**
 * The sets of keys that a tenant's resources of the kind have, with the tags of one resource each, found by skipping from
 * one to the next in the index. One more than MAX_PREFIXES: then they are not all.
 */
export function setsTable(plan: ListPlan): string {
  const next = (tenant: string, behind: Sql) => sql`lateral (select r.tag_set, r.tags from resource r
    where r.tenant_id = ${sql.ref(tenant)} and r.kind = ${plan.kind.name}${behind} order by r.tag_set limit 1) n`;
  plan.tables.set(
    'every_set (tenant_id, tag_set, tags)',
    sql`(select tn.tenant_id, n.tag_set, n.tags from ${plan.tenants} cross join ${next('tn.tenant_id', sql``)}
      union all select s.tenant_id, n.tag_set, n.tags from every_set s
        cross join ${next('s.tenant_id', sql` and r.tag_set > s.tag_set`)})`,
  );
  plan.tables.set('tag_sets', sql`materialized (select * from every_set limit ${sql.lit(MAX_PREFIXES + 1)})`);
  return 'tag_sets';
}

/** Whether a set `s` has and lacks the keys of `k` and `!k`. */
export const setsHold = (terms: Selector): Sql =>
  all(terms.map(({ op, key }) => sql`(s.tags ->> ${key}::text) is ${sql.raw(op === 'exists' ? 'not null' : 'null')}`));

/** The values of a term's key, found as the sets are, and as many of them. */
export function othersTable(plan: ListPlan, term: ValuesTerm): string {
  const ordinal = plan.query.selector.indexOf(term);
  const every = `every_value${ordinal}`;
  const next = (tenant: string, behind: Sql) => sql`lateral (select t.value from resource_tag t
    where t.tenant_id = ${sql.ref(tenant)} and t.kind = ${plan.kind.name} and t.key = ${term.key}${behind}
    order by t.value limit 1) n`;
  plan.tables.set(
    `${every} (tenant_id, value)`,
    sql`(select tn.tenant_id, n.value from ${plan.tenants} cross join ${next('tn.tenant_id', sql``)}
      union all select s.tenant_id, n.value from ${sql.raw(every)} s
        cross join ${next('s.tenant_id', sql` and t.value > s.value`)})`,
  );
  plan.tables.set(
    `values${ordinal}`,
    sql`materialized (select * from ${sql.raw(every)} limit ${sql.lit(MAX_PREFIXES + 1)})`,
  );
  return `values${ordinal}`;
}
