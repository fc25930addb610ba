/** What the sweep has removed from nodes: the list from which the share of a day is counted, and the audit, where administrators look. */
import { type RawBuilder, sql } from 'kysely';
import { SYSTEM_TENANT } from '#libs/core';
import type { Tx } from '#libs/db';
import { writeAudit } from '#libs/events';

interface Removal {
  tenantId: string;
  kind: string;
  id: string;
  nodeId: string;
  nodeName: string;
  approvedBy: string | null;
}

/** Forgets these rows of `orphan o`; those of them (`gone g`) that `removed` says were removed on the sweep's word. */
export async function recordGone(tx: Tx, which: RawBuilder<unknown>, removed: RawBuilder<unknown>): Promise<void> {
  const written = await sql<Removal>`
    with gone as (delete from orphan o where ${which} returning *),
    noted as (
      insert into sweep_removal (tenant_id, kind, id, node_id, approved_by)
      select g.tenant_id, g.kind, g.id, g.node_id, g.approved_by from gone g where ${removed} returning *)
    select v.tenant_id as "tenantId", v.kind, v.id, v.node_id as "nodeId", n.name as "nodeName", v.approved_by as "approvedBy"
    from noted v join node n on n.id = v.node_id`.execute(tx);
  for (const { tenantId, kind, id, nodeId, nodeName, approvedBy } of written.rows)
    await writeAudit(tx, {
      tenantId: SYSTEM_TENANT,
      actor: approvedBy ?? 'admin:upkeep',
      action: 'sweep.removed',
      kind,
      resourceId: id,
      result: 'done',
      details: { tenant: tenantId, node: nodeName, nodeId, byItself: approvedBy === null },
    });
}
