/**
 * What nodes have not reached yet and have been asked to do, read for all nodes that are looked at together: two statements,
 * however many nodes a change is told. Reads only.
 */
import { type Selectable, sql } from 'kysely';
import { Gathering } from '#libs/core';
import type { Database, DB } from '#libs/db';

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

export class Unreached {
  private readonly gathering: Gathering<string, Open>;

  constructor(private readonly db: Database) {
    this.gathering = new Gathering((nodeIds) => this.read(nodeIds), { atOnce: NODES_AT_ONCE });
  }

  /** Oldest first; nothing while a restored database has not been compared with the nodes (`rhyzome restore finish`). */
  of(nodeId: string): Promise<Open> {
    return this.gathering.ask(nodeId);
  }

  private async read(nodeIds: readonly string[]): Promise<Open[]> {
    const ids = [...new Set(nodeIds)];
    const [placements, deeds] = await Promise.all([
      desiredRows(this.db, ids, { onlyUnreached: true }),
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

/** All that is desired on nodes, or what of it they have not reached, oldest first. */
export async function desiredRows(
  db: Database,
  nodeIds: readonly string[],
  { onlyUnreached }: { onlyUnreached: boolean },
): Promise<(DesiredRow & { node_id: string })[]> {
  const unreached = onlyUnreached ? sql`and observed_revision < revision` : sql``;
  const result = await sql<DesiredRow & { node_id: string }>`
    select node_id, tenant_id, resource_id, kind, revision, generation, present, spec from placement
    where node_id = any (${[...nodeIds]}::uuid[]) ${unreached} and not nodes_are_held() order by created_at`.execute(
    db.operator,
  );
  return result.rows;
}
