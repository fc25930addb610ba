/**
 * What of an inventory is news. A node that comes back tells all that it has, and nearly all of it stands in the rows already:
 * one statement finds out what does not, instead of a transaction for each thing. Writes nothing (reports.ts).
 */
import { sql } from 'kysely';
import type { Database } from '#libs/db';
import type { Observed } from '#libs/rpc';
import type { NodeSession } from './registry.js';
import { reportFrom } from './reports.js';

/** Of one statement. */
const AT_ONCE = 1_000;

/** Those that would change a row, in their order. Throws RhyzomeError `malformed_request` for what cannot be stored. */
export async function newsOf(
  db: Database,
  { nodeId }: NodeSession,
  inventory: readonly Observed[],
): Promise<Observed[]> {
  const news: Observed[] = [];
  for (let at = 0; at < inventory.length; at += AT_ONCE) {
    const part = inventory.slice(at, at + AT_ONCE);
    const rows = part.flatMap((observed, n) => {
      const report = reportFrom(observed);
      return report ? [{ n, ...report }] : [];
    });
    const { rows: found } = await sql<{ n: number }>`
      select o.n from jsonb_to_recordset(${JSON.stringify(rows)}::jsonb)
        as o (n int, "tenantId" text, id uuid, revision bigint, phase text, status jsonb, failure jsonb)
      join placement p on p.tenant_id = o."tenantId" and p.resource_id = o.id and p.node_id = ${nodeId}
      where p.observed_revision <= o.revision and p.revision >= o.revision
        and (p.observed_revision, p.phase, p.status, p.failure) is distinct from
          (o.revision, o.phase, nullif(o.status, 'null'), nullif(o.failure, 'null'))
      order by o.n`.execute(db.operator);
    news.push(...found.map(({ n }) => part[n]!));
  }
  return news;
}
