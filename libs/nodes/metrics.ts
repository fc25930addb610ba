/**
 * Metrics that nodes send of what is placed there: the last sample of each resource and source, in one statement a
 * report. Only the latest stream of a node counts, and only for what is placed on that node.
 */
import { sql } from 'kysely';
import { isTenantId, isUuid, MAX_METRICS, type MetricSample, metricErrors } from '#libs/core';
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

/** Stores what is well-formed and drops the rest: a metric too many is no reason to lose a stream. */
export async function recordMetrics(db: Database, session: NodeSession, report: MetricsReport): Promise<void> {
  const rows = new Map<string, Row>();
  for (const item of report.items.slice(0, MAX_REPORTED)) {
    const row = rowOf(item);
    if (row) rows.set(`${row.tenant} ${row.id} ${row.source}`, row);
  }
  if (rows.size === 0) return;
  const list = JSON.stringify([...rows.values()]);
  for (let attempt = 1; ; attempt++) {
    try {
      // In the order of the key, so that two nodes with a network in common never wait for each other.
      await sql`
        insert into metric_sample (tenant_id, resource_id, source, at, metrics)
        select p.tenant_id, p.resource_id, m.source, m.at, m.metrics
        from jsonb_to_recordset(${list}::jsonb)
          as m (tenant text, id uuid, kind text, source text, at timestamptz, metrics jsonb)
        join placement p on p.tenant_id = m.tenant and p.resource_id = m.id and p.kind = m.kind
          and p.node_id = ${session.nodeId} and p.present
        join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
        where exists (
          select from node_session s where s.node_id = ${session.nodeId} and s.session = ${session.session})
        order by 1, 2, 3
        on conflict (tenant_id, resource_id, source) do update set at = excluded.at, metrics = excluded.metrics`.execute(
        db.operator,
      );
      return;
    } catch (error) {
      // One of them was removed in this very moment; without it the others count. What is lost comes again in seconds.
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
