/**
 * Reports that nobody waits for, of all nodes whose streams a replica holds, written down together. When a machine comes to a network,
 * every node that has the network is told and says that it has reached it: that is as many transactions, each
 * with the network's lock, of which none but the first would change more than its own row. One statement finds those and
 * writes them without the lock; the others go the way of reports.ts.
 */
import { sql } from 'kysely';
import { Gathering } from '#libs/core';
import type { Database } from '#libs/db';
import { wakeLate } from '#libs/jobs';
import type { KindRegistry } from '#libs/resources';
import type { Observed } from '#libs/rpc';
import type { NodeSession } from './registry.js';
import { reportFrom } from './reports.js';

/** What is asked of a row of the report, or of a resource in it, is asked by index: joined, the tables might be read whole. */
const oneByOne = sql`offset 0`;

/** So long a report may wait for those of other nodes; so do what its node reports after it, and who waits for it after all. */
const GATHER_MS = 50;

interface Told {
  session: NodeSession;
  report: NonNullable<ReturnType<typeof reportFrom>>;
}

export class QuietReports {
  private readonly gathering: Gathering<Told, boolean>;

  constructor(
    private readonly db: Database,
    private readonly registry: KindRegistry,
  ) {
    this.gathering = new Gathering((told) => this.write(told), { waitMs: GATHER_MS });
  }

  /**
   * Undefined: it may be news, and is for reports.ts. Else whether it is written down; what is not is for reports.ts, too.
   * Throws RhyzomeError `malformed_request`.
   */
  record(session: NodeSession, observed: Observed): Promise<boolean> | undefined {
    const kind = this.registry.find(observed.ref?.kind ?? '');
    const report = reportFrom(observed);
    if (!report || !kind?.disregards?.(report.status)) return undefined;
    const isWritten = this.gathering.ask({ session, report });
    isWritten.catch(() => undefined); // The caller hears of it when it comes to awaiting it, unless its stream has ended.
    return isWritten;
  }

  private async write(told: readonly Told[]): Promise<boolean[]> {
    const rows = told.map(({ session, report }, n) => ({
      n,
      node: session.nodeId,
      session: session.session,
      ...report,
    }));
    // A row that somebody else has locked is left to reports.ts: whoever tells several nodes locks them in another order.
    const { rows: written } = await sql<{ n: number; tenantId: string; id: string }>`
      with report as materialized (
        select * from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb) as o (n int, node uuid, session bigint, "tenantId" text,
          id uuid, kind text, revision bigint, generation bigint, phase text, status jsonb, failure jsonb)
      ), awaited as materialized (
        select o."tenantId", o.id from (select distinct "tenantId", id from report) o
        where exists (select from job j where j.tenant_id = o."tenantId" and j.resource_id = o.id and j.finished_at is null ${oneByOne})
          or exists (select from job j where j.tenant_id = o."tenantId" and j.waits_for = o.id and j.finished_at is null ${oneByOne})
          or exists (select from held_address h where h.tenant_id = o."tenantId" and h.resource_id = o.id ${oneByOne})
      ), quiet as materialized (
        select distinct on (o."tenantId", o.id, o.node) o.* from report o
        where not exists (select from awaited a where a."tenantId" = o."tenantId" and a.id = o.id)
          and exists (select from node_session s join node n on n.id = s.node_id and n.epoch = s.epoch
            where s.node_id = o.node and s.session = o.session ${oneByOne})
          and exists (select from placement p where p.tenant_id = o."tenantId" and p.resource_id = o.id and p.node_id = o.node
            and p.kind = o.kind and p.present and p.observed_revision < o.revision and p.revision >= o.revision ${oneByOne})
        order by o."tenantId", o.id, o.node, o.revision desc
      ), free as materialized (
        select p.tenant_id, p.resource_id, p.node_id from placement p join quiet q
          on p.tenant_id = q."tenantId" and p.resource_id = q.id and p.node_id = q.node
        where p.present and p.observed_revision < q.revision and p.revision >= q.revision
        for no key update of p skip locked
      )
      update placement p set observed_revision = q.revision, observed_generation = q.generation, phase = q.phase,
        status = nullif(q.status, 'null'), failure = nullif(q.failure, 'null'), observed_at = now()
      from free f join quiet q on q."tenantId" = f.tenant_id and q.id = f.resource_id and q.node = f.node_id
      where p.tenant_id = f.tenant_id and p.resource_id = f.resource_id and p.node_id = f.node_id
      returning q.n, p.tenant_id as "tenantId", p.resource_id as id`.execute(this.db.operator);
    // Who began to wait while the statement ran saw the rows as they were before.
    await wakeLate(this.db, written);
    const done = new Set(written.map(({ n }) => n));
    return told.map((_, n) => done.has(n));
  }
}
