/**
 * Metrics that nodes send of what is placed there: the last sample of each resource and source. Only the latest stream of a node counts, and only for what is placed on that node.
 */
import { sql } from 'kysely';
import { Gathering, isTenantId, isUuid, MAX_METRICS, type MetricSample, metricErrors } from '#libs/core';
import { type Database, violatedForeignKey } from '#libs/db';
import { type MetricsReport, MetricType, type ResourceMetrics } from '#libs/rpc';
import type { NodeSession } from './registry.js';

/** Resources in one report. */
export const MAX_REPORTED = 1_000;

interface Row {
  tenant: string;
  id: string;
  kind: string;
  source: 'node' | 'guest';
  at: string;
  metrics: MetricSample[];
}

/** So long a sample may wait for those of other nodes; nobody waits for it. */
const GATHER_MS = 250;
/** Nodes whose samples go in one statement. */
const NODES_AT_ONCE = 20;

interface Reported {
  session: NodeSession;
  report: MetricsReport;
}

/** Of all nodes whose streams a replica holds, in one statement for those of a quarter of a second. */
export class Metrics {
  private readonly gathering: Gathering<Reported, void>;

  constructor(db: Database, waitMs = GATHER_MS) {
    const write = async (reported: readonly Reported[]): Promise<void[]> => {
      await recordMetrics(db, reported);
      return reported.map(() => undefined);
    };
    this.gathering = new Gathering(write, { waitMs, atOnce: NODES_AT_ONCE });
  }

  /** Resolves once what is well-formed is stored; the rest is dropped: a metric too many is no reason to lose a stream. */
  record(session: NodeSession, report: MetricsReport): Promise<void> {
    return this.gathering.ask({ session, report });
  }
}

/** Stores the last sample of each resource and source. */
export async function recordMetrics(db: Database, reported: readonly Reported[]): Promise<void> {
  const rows = reported.flatMap(({ session: { nodeId: node, session }, report }) =>
    report.items.slice(0, MAX_REPORTED).flatMap((item) => {
      const row = rowOf(item);
      return row ? [{ ...row, node, session }] : [];
    }),
  );
  if (rows.length === 0) return;
  const list = JSON.stringify(rows.map((row, n) => ({ ...row, n })));
  for (let attempt = 1; ; attempt++) {
    try {
      // In the order of the key, so that two replicas whose nodes have a network in common never wait for each other.
      await sql`
        insert into metric_sample (tenant_id, resource_id, source, at, metrics)
        select distinct on (p.tenant_id, p.resource_id, m.source) p.tenant_id, p.resource_id, m.source, m.at, m.metrics
        from jsonb_to_recordset(${list}::jsonb)
          as m (n int, node uuid, session bigint, tenant text, id uuid, kind text, source text, at timestamptz, metrics jsonb)
        join node_session s on s.node_id = m.node and s.session = m.session
        join placement p on p.tenant_id = m.tenant and p.resource_id = m.id and p.kind = m.kind
          and p.node_id = m.node and p.present
        join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
        order by p.tenant_id, p.resource_id, m.source, m.n desc
        on conflict (tenant_id, resource_id, source) do update set at = excluded.at, metrics = excluded.metrics`.execute(
        db.operator,
      );
      return;
    } catch (error) {
      // One of them was removed in this very moment; without it the others count. What is lost comes again within half a minute.
      if (!violatedForeignKey(error)) throw error;
      if (attempt === 3) return;
    }
  }
}

function rowOf({ ref, at, metrics, custom }: ResourceMetrics): Row | undefined {
  if (!ref || !isTenantId(ref.tenantId) || !isUuid(ref.id)) return undefined;
  const samples = metrics.slice(0, MAX_METRICS).map(
    ({ name, type, labels, value }): MetricSample => ({
      name,
      type: type === MetricType.METRIC_TYPE_COUNTER ? 'counter' : 'gauge',
      labels,
      value,
    }),
  );
  if (metricErrors(samples).length > 0) return undefined;
  const when = Math.min(at?.getTime() ?? Date.now(), Date.now());
  if (!(when > 0)) return undefined;
  return {
    tenant: ref.tenantId,
    id: ref.id,
    kind: ref.kind,
    source: custom ? 'guest' : 'node',
    at: new Date(when).toISOString(),
    metrics: samples,
  };
}
