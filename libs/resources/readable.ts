/**
 * SQL of "may read": from what an actor reaches (libs/auth) to a condition on a row, for lists, counts, jobs, events and
 * audit. Says the same as `reaches`, and costs about the same for two grants and for two hundred: what many of them ask of
 * the same tags is asked of a row once, and looked up by hash.
 */
import { type RawBuilder, sql } from 'kysely';
import { type Actor, isEmpty, type Reach, reachOf } from '#libs/auth';
import type { Selector, SelectorTerm } from '#libs/core';

type Sql = RawBuilder<unknown>;
type ValuesTerm = Extract<SelectorTerm, { values: string[] }>;

/** Where a row has what its reach is decided on. */
export interface ReachedRow {
  id: Sql;
  /** A jsonb object; null: no tags are known. */
  tags: Sql;
  createdBy: Sql;
}

/** A row of `resource` by its alias. */
export const reachedAs = (alias: string): ReachedRow => ({
  id: sql.ref(`${alias}.id`),
  tags: sql.ref(`${alias}.tags`),
  createdBy: sql.ref(`${alias}.created_by`),
});

/** More keys than these are looked for among all tags of a row, instead of one by one. */
const MAX_KEYS = 4;
/** A selector that stands for more combinations of values is asked by itself. */
const MAX_COMBINATIONS = 64;

/** Whether a term of a selector holds for a row's tags; not null unless `tags` is. */
export function termHolds(term: SelectorTerm, tags: Sql): Sql {
  const value = sql`${tags} ->> ${term.key}::text`;
  switch (term.op) {
    case 'exists':
      return sql`${value} is not null`;
    case 'absent':
      return sql`${value} is null`;
    case 'in':
      return sql`${value} = any (${term.values}::text[])`;
    case 'notin':
      return sql`coalesce(${value} <> all (${term.values}::text[]), true)`;
  }
}

/**
 * Whether a reach has a row. Never null. The lists stand in sub-selects, which PostgreSQL hashes, and within `coalesce`, so
 * that it does not make joins of them.
 */
export function isReached(reach: Reach, row: ReachedRow): Sql {
  if (reach.all) return sql`true`;
  const parts: Sql[] = [];
  if (reach.ids.size > 0) parts.push(sql`${row.id} in (select unnest(${listOf(reach.ids)}::uuid[]))`);
  if (reach.createdBy.length > 0) parts.push(sql`${row.createdBy} = any (${[...reach.createdBy]}::text[])`);
  const { pairs, alike } = groupsOf(reach);
  parts.push(...pairsHold(pairs, row.tags));
  for (const group of alike) parts.push(groupHolds(group, row.tags));
  if (parts.length === 0) return sql`false`;
  return sql`coalesce((${sql.join(parts, sql` or `)}), false)`;
}

const lists = new WeakMap<Iterable<string> & object, string>();

/** An array as PostgreSQL reads it (§8.15.2), written once for what does not change. */
function listOf(values: Iterable<string> & object): string {
  const list = lists.get(values) ?? literalOf(values);
  lists.set(values, list);
  return list;
}

function literalOf(values: Iterable<string>): string {
  const quoted = Array.from(values, (value) => `"${value.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`);
  return `{${quoted.join(',')}}`;
}

const flat = new WeakMap<Reach['pairs'], { keys: string; values: string }>();

/** Each value with its key. */
function flatten(pairs: Reach['pairs']): { keys: string; values: string } {
  const known = flat.get(pairs);
  if (known) return known;
  const both = [...pairs].flatMap(([key, values]) => [...values].map((value) => [key, value] as const));
  const fresh = { keys: literalOf(both.map(([key]) => key)), values: literalOf(both.map(([, value]) => value)) };
  flat.set(pairs, fresh);
  return fresh;
}

function pairsHold(pairs: Reach['pairs'], tags: Sql): Sql[] {
  if (pairs.size <= MAX_KEYS) {
    return [...pairs].map(
      ([key, values]) => sql`${tags} ->> ${key}::text in (select unnest(${listOf(values)}::text[]))`,
    );
  }
  const { keys, values } = flatten(pairs);
  return [
    sql`exists (select from jsonb_each_text(${tags}) g where (g.key, g.value) in (select * from
      unnest(${keys}::text[], ${values}::text[])))`,
  ];
}

/** Selectors that differ in the values of `in` only. */
interface Alike {
  /** The keys of the `in` terms, in the order of `rows`. */
  keys: string[];
  /** For each key, its value in each of the combinations. */
  columns: string[][];
  rest: SelectorTerm[];
}

interface Groups {
  pairs: Reach['pairs'];
  alike: Alike[];
}

const groupings = new WeakMap<Reach, Groups>();

function groupsOf(reach: Reach): Groups {
  const groups = groupings.get(reach) ?? { pairs: reach.pairs, alike: alikeOf(reach.selectors) };
  groupings.set(reach, groups);
  return groups;
}

function alikeOf(selectors: readonly Selector[]): Alike[] {
  const groups = new Map<string, Alike>();
  for (const selector of selectors) {
    const terms = selector.toSorted((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
    const listed = terms.filter((term): term is ValuesTerm => term.op === 'in');
    const combinations = combine(listed.map(({ values }) => [...new Set(values)]));
    const rest = combinations ? terms.filter(({ op }) => op !== 'in') : terms;
    const keys = combinations ? listed.map(({ key }) => key) : [];
    const name = JSON.stringify([keys, rest]);
    const group = groups.get(name) ?? { keys, columns: keys.map(() => []), rest };
    groups.set(name, group);
    for (const values of combinations ?? []) for (const [n, value] of values.entries()) group.columns[n]!.push(value);
  }
  return [...groups.values()];
}

/** Every choice of one value of each list; undefined where these are too many. */
function combine(lists: string[][]): string[][] | undefined {
  if (lists.reduce((product, { length }) => product * length, 1) > MAX_COMBINATIONS) return undefined;
  return lists.reduce<string[][]>((all, list) => all.flatMap((one) => list.map((value) => [...one, value])), [[]]);
}

function groupHolds({ keys, columns, rest }: Alike, tags: Sql): Sql {
  const parts = rest.map((term) => termHolds(term, tags));
  if (keys.length > 0) {
    const values = sql.join(keys.map((key) => sql`${tags} ->> ${key}::text`));
    const lists = sql.join(columns.map((column) => sql`${listOf(column)}::text[]`));
    parts.push(sql`(${values}) in (select * from unnest(${lists}))`);
  }
  // Of no known tags, none holds, and none is lacking either.
  return sql`(${tags} is not null and ${sql.join(parts, sql` and `)})`;
}

/** What can be looked up of a reach: so much of it is found by index, undefined where part of it is not. */
export interface Lookup {
  /** As arrays' literals; how many ids there are stands beside. */
  ids: string;
  count: number;
  /** Tags: what any of these has may be in the reach, and nothing else. */
  keys: string;
  values: string;
}

const lookups = new WeakMap<Reach, Lookup | null>();

export function lookupOf(reach: Reach): Lookup | undefined {
  if (reach.all) return undefined;
  const lookup = lookups.get(reach) ?? makeLookup(reach);
  lookups.set(reach, lookup);
  return lookup ?? undefined;
}

function makeLookup(reach: Reach): Lookup | null {
  if (reach.createdBy.length > 0) return null;
  const tags = new Map([...reach.pairs].map(([key, values]) => [key, new Set(values)]));
  const used = new Map<string, Set<string>>();
  const listed = reach.selectors.map((selector) => selector.filter((one): one is ValuesTerm => one.op === 'in'));
  for (const term of listed.flat()) addValues(used, term);
  for (const terms of listed) {
    // The tag that the selectors tell apart by, and not the one that all of them ask for.
    const [best] = terms.toSorted((a, b) => used.get(b.key)!.size - used.get(a.key)!.size);
    if (!best) return null;
    addValues(tags, best);
  }
  return { ids: listOf(reach.ids), count: reach.ids.size, ...flatten(tags) };
}

function addValues(tags: Map<string, Set<string>>, { key, values }: ValuesTerm): void {
  const known = tags.get(key) ?? new Set();
  tags.set(key, known);
  for (const value of values) known.add(value);
}

/** The one selector that a reach consists of, undefined where it is more, or of very many values. */
export function selectorOfReach({ all, ids, pairs, selectors, createdBy }: Reach): Selector | undefined {
  if (all || ids.size > 0 || createdBy.length > 0 || pairs.size + selectors.length !== 1) return undefined;
  const [selector] = selectors;
  if (selector) return selector;
  const [[key, values]] = [...pairs] as [[string, ReadonlySet<string>]];
  return values.size <= MAX_WALKED ? [{ op: 'in', key, values: [...values] }] : undefined;
}

/** Each value is walked for itself. */
const MAX_WALKED = 4;

export interface KindsRead {
  /** Kinds of which all resources may be read. */
  all: string[];
  /** Kinds of which some may, by what they have in common. */
  some: { kinds: string[]; reach: Reach }[];
}

/** What an actor may read of these kinds. */
export function kindsRead(actor: Actor, kinds: readonly string[]): KindsRead {
  const all: string[] = [];
  const some = new Map<string, { kinds: string[]; reach: Reach }>();
  for (const kind of kinds) {
    const reach = reachOf(actor, 'read', kind);
    if (reach.all) all.push(kind);
    else if (!isEmpty(reach)) {
      const { ids, pairs, selectors, createdBy } = reach;
      const text = JSON.stringify([[...ids], [...pairs].map(([key, of]) => [key, [...of]]), selectors, createdBy]);
      const group = some.get(text) ?? { kinds: [], reach };
      group.kinds.push(kind);
      some.set(text, group);
    }
  }
  return { all, some: [...some.values()] };
}

/** Whether a row about a resource (`kind`: its kind) is about one that may be read. Never null. */
export function isReadable(read: KindsRead, kind: Sql, row: ReachedRow): Sql {
  const parts = [sql`${kind} = any (${read.all}::text[])`];
  for (const { kinds, reach } of read.some) {
    parts.push(sql`(${kind} = any (${kinds}::text[]) and ${isReached(reach, row)})`);
  }
  return sql`coalesce((${sql.join(parts, sql` or `)}), false)`;
}

/** For `EventFilter` of libs/events: what an actor may read of these kinds. */
export function readableEvents(
  actor: Actor,
  kinds: readonly string[],
): (row: ReachedRow & { kind: Sql }) => RawBuilder<unknown> {
  const read = kindsRead(actor, kinds);
  return ({ kind, ...row }) => isReadable(read, kind, row);
}

/**
 * Which rows `r` of the audit trail an actor may read beside its permission for the trail: those about resources that it
 * may read (of what is gone, by its last job's tags), about jobs of such, and about what is no resource. A refused create
 * is about no resource, and read by who may read all of the kind.
 */
export function readableAudit(actor: Actor, kinds: readonly string[]): Sql {
  const read = kindsRead(actor, kinds);
  if (read.all.length === kinds.length) return sql`true`;
  const ofJob = {
    id: sql.ref('j.resource_id'),
    tags: sql`coalesce(x.tags, j.resource_tags)`,
    createdBy: sql`coalesce(x.created_by, j.created_by)`,
  };
  const jobs = sql`job j left join lateral (select q.tags, q.created_by from resource q
    where q.tenant_id = j.tenant_id and q.id = j.resource_id offset 0) x on true where j.tenant_id = r.tenant_id`;
  const byJob = (which: Sql) =>
    sql`exists (select from (select j.kind, j.resource_id, ${ofJob.tags} as tags, ${ofJob.createdBy} as created_by
      from ${jobs} and ${which} offset 0) l
      where ${isReadable(read, sql.ref('l.kind'), { ...reachedAs('l'), id: sql.ref('l.resource_id') })})`;
  return sql`(r.kind is null or not r.kind = any (${[...kinds, 'job']}::text[]) or r.kind = any (${read.all}::text[])
    or (r.kind <> 'job' and ${byJob(sql`j.id = (select n.id from job n
      where n.tenant_id = r.tenant_id and n.resource_id = r.resource_id order by n.created_at desc limit 1)`)})
    or (r.kind = 'job' and ${byJob(sql`j.id = r.resource_id`)}))`;
}
