/**
 * What a resource uses and what is reported of it, for every kind: the last sample of each source. Users read it; nodes
 * write what they measure and what guests say (libs/nodes), services write here. No write changes the resource itself.
 */
import { sql } from 'kysely';
import { authorize } from '#libs/auth';
import { invalid, type MetricSample, metricErrors, notFound, renderMetrics } from '#libs/core';
import type { Database } from '#libs/db';
import type { Caller } from './caller.js';
import { type CoreRow, type KindDefinition, perQuery } from './kind.js';
import { coreOf, findResource } from './repository.js';

/** One source's last sample. */
export interface MetricsOfSource {
  at: string;
  /** How old the sample is. */
  ageSeconds: number;
  metrics: MetricSample[];
}

export interface MetricsView {
  resource: { kind: string; id: string; name: string };
  /** What its node measured; null: nothing yet. */
  builtIn: MetricsOfSource | null;
  /** What its guest (`guest`) and services (`service:NAME`) report. */
  custom: (MetricsOfSource & { source: string })[];
}

interface SampleRow {
  source: string;
  at: Date;
  age: number;
  metrics: MetricSample[];
}

/** The samples of a resource that the caller was let read. */
export async function readMetrics(db: Database, caller: Caller, row: CoreRow): Promise<MetricsView> {
  const rows = await db.tenantRead(
    caller.actor.tenantId,
    sql<SampleRow>`
      select source, at, metrics, greatest(0, extract(epoch from now() - at))::float8 as age from metric_sample
      where tenant_id = ${row.tenant_id} and resource_id = ${row.id} order by source`.compile(db.builder),
  );
  const samples = rows.map(({ source, at, age, metrics }) => ({
    source,
    at: at.toISOString(),
    ageSeconds: Math.round(age * 10) / 10,
    metrics,
  }));
  const [node] = samples.filter(({ source }) => source === 'node');
  return {
    resource: { kind: row.kind, id: row.id, name: row.name },
    builtIn: node ? { at: node.at, ageSeconds: node.ageSeconds, metrics: node.metrics } : null,
    custom: samples.filter(({ source }) => source !== 'node'),
  };
}

/**
 * The same as Prometheus text (exposition format 0.0.4): `instance` is the resource's id, `name` its name. What the node
 * measured is called rhyzome_<kind>_…; custom metrics keep their names and say their source.
 */
export function metricsText({ resource, builtIn, custom }: MetricsView): string {
  const prefix = `rhyzome_${resource.kind.replaceAll('-', '_')}_`;
  const own = { instance: resource.id, name: resource.name };
  const age = (source: string, value: number): MetricSample => ({
    name: `${prefix}sample_age_seconds`,
    type: 'gauge',
    labels: { ...own, source },
    value,
  });
  return renderMetrics([
    ...(builtIn?.metrics ?? []).map((sample) => ({
      ...sample,
      name: prefix + sample.name,
      labels: { ...own, ...sample.labels },
    })),
    ...custom.flatMap(({ source, metrics }) =>
      metrics.map((sample) => ({ ...sample, labels: { ...own, source, ...sample.labels } })),
    ),
    ...(builtIn ? [age('node', builtIn.ageSeconds)] : []),
    ...custom.map(({ source, ageSeconds }) => age(source, ageSeconds)),
  ]);
}

/**
 * Sets all custom metrics that a service has on a resource; what it does not name any more goes. Verb `metrics`. Throws
 * RhyzomeError: not_found, forbidden, invalid.
 */
export async function reportMetrics(
  db: Database,
  caller: Caller,
  kind: KindDefinition,
  idOrName: string,
  metrics: readonly MetricSample[],
): Promise<void> {
  const { actor } = caller;
  const row = await findResource(perQuery(db, actor.tenantId), kind, idOrName);
  if (!row) throw notFound(kind.name, idOrName);
  authorize(actor, 'metrics', { ...coreOf(row), isPublic: row.tenant_id !== actor.tenantId }, idOrName);
  const errors = metricErrors(metrics);
  if (errors.length > 0) throw invalid(errors);
  const source = `service:${actor.name ?? actor.subject}`.slice(0, 100);
  await db.tenantTransaction(actor.tenantId, async (tx) => {
    // A resource that is removed meanwhile takes its samples along; then there is nothing to write to.
    const [held] = (
      await sql`select from resource where tenant_id = ${row.tenant_id} and id = ${row.id} for key share`.execute(tx)
    ).rows;
    if (!held) throw notFound(kind.name, idOrName);
    if (metrics.length === 0) {
      await sql`delete from metric_sample where tenant_id = ${row.tenant_id} and resource_id = ${row.id}
        and source = ${source}`.execute(tx);
      return;
    }
    await sql`
      insert into metric_sample (tenant_id, resource_id, source, at, metrics)
      values (${row.tenant_id}, ${row.id}, ${source}, now(), ${JSON.stringify(metrics)}::jsonb)
      on conflict (tenant_id, resource_id, source) do update set at = excluded.at, metrics = excluded.metrics`.execute(
      tx,
    );
  });
}
