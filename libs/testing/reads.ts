/** What reading statements cost a server: the statements that went through a database, and what their plans really read. */

import { type CompiledQuery, sql } from 'kysely';
import { Database, type Tx } from '#libs/db';

export interface Read {
  query: CompiledQuery;
  inOrder: boolean;
}

/** Keeps the reading statements that went through it. */
export class SpyingDatabase extends Database {
  reads: Read[] = [];

  override tenantRead<Row>(
    tenantId: string,
    query: CompiledQuery<Row>,
    options: { inOrder?: boolean } = {},
  ): Promise<Row[]> {
    this.reads.push({ query, inOrder: options.inOrder ?? false });
    return super.tenantRead(tenantId, query, options);
  }
}

interface PlanNode {
  'Node Type': string;
  'Relation Name'?: string;
  'Index Name'?: string;
  'Actual Rows': number;
  'Actual Loops': number;
  'Rows Removed by Filter'?: number;
  'Rows Removed by Index Recheck'?: number;
  Plans?: PlanNode[];
}

export interface Cost {
  /** Tables that were scanned as a whole. */
  scanned: string[];
  /** Rows of tables and indexes that were looked at. */
  rowsRead: number;
  /** The same by index and table, for whoever looks for the reason. */
  details: string[];
}

/**
 * Runs a read again as a prepared statement whose plan knows no parameters (PREPARE, “Notes”), in the tenant's scope and
 * under the settings that it was run with.
 */
export function costOf(db: Database, tenantId: string, { query, inOrder }: Read): Promise<Cost> {
  return db.tenantTransaction(tenantId, async (tx) => {
    for (const way of inOrder ? ['seqscan', 'bitmapscan', 'sort', 'hashjoin', 'mergejoin'] : []) {
      await sql.raw(`set local enable_${way} = off`).execute(tx);
    }
    await sql.raw('set local plan_cache_mode = force_generic_plan').execute(tx);
    const scans = (await explain(tx, query)).filter((node) => node['Relation Name'] !== undefined);
    const read = (node: PlanNode) =>
      (node['Actual Rows'] + (node['Rows Removed by Filter'] ?? 0) + (node['Rows Removed by Index Recheck'] ?? 0)) *
      node['Actual Loops'];
    return {
      scanned: scans.filter((node) => node['Node Type'] === 'Seq Scan').map((node) => node['Relation Name']!),
      details: scans.map((node) => `${node['Index Name'] ?? node['Relation Name']}: ${read(node)}`),
      rowsRead: scans.reduce((sum, node) => sum + read(node), 0),
    };
  });
}

const nodesOf = (node: PlanNode): PlanNode[] => [node, ...(node.Plans ?? []).flatMap(nodesOf)];

async function explain(tx: Tx, query: CompiledQuery): Promise<PlanNode[]> {
  await sql.raw(`prepare asked as ${query.sql}`).execute(tx);
  const values = query.parameters.length > 0 ? `(${query.parameters.map(literal).join(', ')})` : '';
  const result = await sql
    .raw<{ 'QUERY PLAN': [{ Plan: PlanNode }] }>(`explain (analyze, timing off, format json) execute asked ${values}`)
    .execute(tx);
  await sql.raw('deallocate asked').execute(tx);
  return nodesOf(result.rows[0]!['QUERY PLAN'][0].Plan);
}

/** A parameter as a literal that takes on the statement's type. */
function literal(value: unknown): string {
  const quoted = (item: unknown) => `"${String(item).replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
  const text = Array.isArray(value) ? `{${value.map(quoted).join(',')}}` : String(value);
  return `'${text.replaceAll("'", "''")}'`;
}
