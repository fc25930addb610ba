/**
 * What nodes have not reached yet and have been asked to do, read for all nodes that are looked at together: two statements,
 * and one look at each resource whose specs are composed, however many nodes a change is told. Reads only.
 */
import { type Selectable, sql } from 'kysely';
import { Gathering } from '#libs/core';
import type { Database, DB } from '#libs/db';
import type { Composed, KindRegistry } from '#libs/resources';
import type { StreamLog } from './stream-log.js';

export interface DesiredRow {
  tenant_id: string;
  resource_id: string;
  kind: string;
  revision: number;
  generation: number;
  present: boolean;
  spec: unknown;
}

export type DeedRow = Selectable<DB['deed']>;

interface Open {
  placements: DesiredRow[];
  deeds: DeedRow[];
}

/** A network may be told to many nodes, each its own part of it: what is read at once stays in memory. */
const NODES_AT_ONCE = 100;

export class Unreached implements DesireReader {
  private readonly gathering: Gathering<string, Open>;

  constructor(
    readonly db: Database,
    readonly registry: KindRegistry,
    readonly log: StreamLog,
  ) {
    this.gathering = new Gathering((nodeIds) => this.read(nodeIds), { atOnce: NODES_AT_ONCE });
  }

  /** Oldest first; nothing while a restored database has not been compared with the nodes (`rhyzome restore finish`). */
  of(nodeId: string): Promise<Open> {
    return this.gathering.ask(nodeId);
  }

  private async read(nodeIds: readonly string[]): Promise<Open[]> {
    const ids = [...new Set(nodeIds)];
    const [placements, deeds] = await Promise.all([
      desiredRows(this, ids, { onlyUnreached: true }),
      sql<DeedRow>`
        select * from deed where node_id = any (${ids}::uuid[]) and state = 'asked' and not nodes_are_held()`.execute(
        this.db.operator,
      ),
    ]);
    const of = <Row extends { node_id: string }>(rows: readonly Row[]) => Map.groupBy(rows, ({ node_id }) => node_id);
    const [placementsOf, deedsOf] = [of(placements), of(deeds.rows)];
    return nodeIds.map((id) => ({ placements: placementsOf.get(id) ?? [], deeds: deedsOf.get(id) ?? [] }));
  }
}

/** What reading takes. */
export interface DesireReader {
  db: Database;
  registry: KindRegistry;
  log: Pick<StreamLog, 'warn'>;
}

type NodeRow = DesiredRow & { node_id: string };

/** All that is desired on nodes, or what of it they have not reached, oldest first. */
export async function desiredRows(
  by: DesireReader,
  nodeIds: readonly string[],
  { onlyUnreached }: { onlyUnreached: boolean },
): Promise<NodeRow[]> {
  const unreached = onlyUnreached ? sql`and observed_revision < revision` : sql``;
  const { rows } = await sql<NodeRow>`
    select node_id, tenant_id, resource_id, kind, revision, generation, present, spec from placement
    where node_id = any (${[...nodeIds]}::uuid[]) ${unreached} and not nodes_are_held() order by created_at`.execute(
    by.db.operator,
  );
  const composed = rows.filter(({ spec }) => isComposed(spec));
  for (const of of Map.groupBy(composed, ({ resource_id }) => resource_id).values()) await compose(by, of);
  // One that the resource has left meanwhile is told so by the next look.
  return rows.filter(({ spec }) => !isComposed(spec));
}

function isComposed(spec: unknown): spec is Composed {
  return typeof (spec as Composed | null)?.composed === 'string';
}

/** Gives rows of one resource their specs. What fails keeps nobody else waiting: it is tried again at the nodes' next look. */
async function compose({ db, registry, log }: DesireReader, rows: readonly NodeRow[]): Promise<void> {
  const { tenant_id: tenantId, resource_id: id, kind } = rows[0]!;
  const nodeIds = rows.map(({ node_id }) => node_id);
  try {
    const specs = await registry.find(kind)?.compose?.(db, tenantId, id, nodeIds);
    for (const row of rows) row.spec = specs?.get(row.node_id) ?? row.spec;
  } catch (error) {
    log.warn({ tenant: tenantId, kind, id, err: error }, 'what nodes are to be told of it could not be composed');
  }
}
