/**
 * Where an instance wants to be: by tags of its tenant's other instances, and by labels of nodes that administrators let
 * tenants choose by. Makes of it which nodes may be chosen and what speaks against each; who is on them beside the tenant it
 * never sees.
 */
import { type RawBuilder, sql } from 'kysely';
import { type FieldError, parseSelector, type ResourceCore, type SelectorTerm } from '#libs/core';
import type { Tx } from '#libs/db';
import { lockPlacement, type NodeChoice, type Requirement } from '#libs/nodes';
import { type RowScope, selectorCondition } from '#libs/resources';

export interface Placement {
  /** Only on nodes with these labels. */
  nodes?: string;
  /** Only on nodes that carry one of these, as soon as there is one. */
  affinity?: string;
  /** On no node that carries one of these. */
  antiAffinity?: string;
  preferredAffinity?: string;
  preferredAntiAffinity?: string;
  spread?: {
    /** The label whose values are the domains. */
    over: string;
    among: string;
    required?: boolean;
  };
}

interface LabelledNode {
  id: string;
  domain: string | null;
}

/** Errors where a wish names a label that tenants may not choose by. */
export async function placementErrors(scope: RowScope, placement: Placement | undefined): Promise<FieldError[]> {
  const named = [
    ...(placement?.nodes ? parseSelector(placement.nodes) : []).map(({ key }) => ({
      key,
      pointer: '/placement/nodes',
    })),
    ...(placement?.spread ? [{ key: placement.spread.over, pointer: '/placement/spread/over' }] : []),
  ];
  if (named.length === 0) return [];
  const [allowed] = await scope.rows(
    sql<{ labels: string[] }>`select placement_labels as labels from installation`.compile(scope.builder),
  );
  const labels = allowed?.labels ?? [];
  const choice = labels.length > 0 ? `there are: ${[...labels].sort().join(', ')}` : 'there are none';
  return named
    .filter(({ key }) => !labels.includes(key))
    .map(({ key, pointer }) => ({
      pointer,
      code: 'invalid_value',
      message: `has “${key}”, which is no label of nodes to choose by; ${choice}`,
    }));
}

/**
 * What the wishes come to just now. From here on those of the tenant's placements that look at its machines wait for each
 * other, so that two that must not meet do not choose the same node at once.
 */
export async function choiceOf(tx: Tx, core: ResourceCore, placement: Placement): Promise<NodeChoice> {
  const { affinity, antiAffinity, preferredAffinity, preferredAntiAffinity, nodes, spread } = placement;
  if (affinity || antiAffinity || preferredAffinity || preferredAntiAffinity || spread)
    await lockPlacement(tx, core.tenantId);
  const required: Requirement[] = [];
  const ranks = new Map<string, number>();
  const add = (id: string, count: number) => ranks.set(id, (ranks.get(id) ?? 0) + count);
  const labelled = nodes || spread ? await labelledNodes(tx, nodes, spread?.over) : [];
  if (nodes) required.push({ name: 'placement.nodes', asks: nodes, only: new Set(labelled.map(({ id }) => id)) });
  if (affinity) {
    const near = await machinesByNode(tx, core, affinity);
    if (near.size > 0) required.push({ name: 'placement.affinity', asks: affinity, only: new Set(near.keys()) });
  }
  if (antiAffinity) {
    const never = new Set((await machinesByNode(tx, core, antiAffinity)).keys());
    required.push({ name: 'placement.antiAffinity', asks: antiAffinity, never });
  }
  // One near is as good as ten, so it speaks once for a node; each that should be elsewhere speaks against it.
  if (preferredAffinity) for (const id of (await machinesByNode(tx, core, preferredAffinity)).keys()) add(id, -1);
  if (preferredAntiAffinity) {
    for (const [id, count] of await machinesByNode(tx, core, preferredAntiAffinity)) add(id, count);
  }
  if (spread) {
    const surplus = await surplusOf(tx, core, spread, labelled);
    if (spread.required) required.push(emptiestOf(spread, labelled, surplus));
    else for (const { id, domain } of labelled) add(id, domain === null ? surplus.worst : surplus.of(domain));
  }
  return { required, ranks };
}

/** How many more a domain has than the one with the fewest. */
async function surplusOf(
  tx: Tx,
  core: ResourceCore,
  { over, among }: { over: string; among: string },
  labelled: readonly LabelledNode[],
) {
  const there = await machinesByDomain(tx, core, among, over);
  const domains = new Set(labelled.flatMap(({ domain }) => domain ?? []));
  const counts = [...domains].map((domain) => there.get(domain) ?? 0);
  const fewest = Math.min(...counts);
  const of = (domain: string) => (there.get(domain) ?? 0) - fewest;
  return { of, worst: Math.max(...counts) - fewest + 1 };
}

function emptiestOf(
  { over, among }: { over: string; among: string },
  labelled: readonly LabelledNode[],
  surplus: { of(domain: string): number },
): Requirement {
  const emptiest = labelled.filter(({ domain }) => domain !== null && surplus.of(domain) === 0);
  return { name: 'placement.spread', asks: `${among} over ${over}`, only: new Set(emptiest.map(({ id }) => id)) };
}

/** The nodes that take new instances and have the labels, each with its value of another label. */
async function labelledNodes(tx: Tx, nodes: string | undefined, over: string | undefined): Promise<LabelledNode[]> {
  const conditions = [sql`takes_new(n, 'instance')`, ...(nodes ? parseSelector(nodes) : []).map(labelCondition)];
  const result = await sql<LabelledNode>`
    select n.id, n.labels ->> ${over ?? ''}::text as domain from node n where ${sql.join(conditions, sql` and `)}`.execute(
    tx,
  );
  return result.rows;
}

function labelCondition(term: SelectorTerm): RawBuilder<boolean> {
  const label = sql`n.labels ->> ${term.key}::text`;
  switch (term.op) {
    case 'exists':
      return sql<boolean>`${label} is not null`;
    case 'absent':
      return sql<boolean>`${label} is null`;
    case 'in':
      return sql<boolean>`${label} in (${sql.join(term.values)})`;
    case 'notin':
      return sql<boolean>`(${label} is null or ${label} not in (${sql.join(term.values)}))`;
  }
}

/** The tenant's other machines that a selector finds, over `r`, `k` and their node `n`. */
function machines(core: ResourceCore, selector: string) {
  const conditions = parseSelector(selector).map(selectorCondition);
  return sql`resource r join instance k on k.tenant_id = r.tenant_id and k.id = r.id join node n on n.id = k.node_id
    where r.tenant_id = ${core.tenantId} and r.kind = 'instance' and r.id <> ${core.id} and ${sql.join(conditions, sql` and `)}`;
}

async function machinesByNode(tx: Tx, core: ResourceCore, selector: string): Promise<Map<string, number>> {
  const result = await sql<{ id: string; count: number }>`
    select n.id, count(*)::int as count from ${machines(core, selector)} group by n.id`.execute(tx);
  return new Map(result.rows.map(({ id, count }) => [id, count]));
}

async function machinesByDomain(tx: Tx, core: ResourceCore, selector: string, label: string) {
  const result = await sql<{ domain: string; count: number }>`
    select n.labels ->> ${label}::text as domain, count(*)::int as count from ${machines(core, selector)}
      and n.labels ->> ${label}::text is not null group by 1`.execute(tx);
  return new Map(result.rows.map(({ domain, count }) => [domain, count]));
}
