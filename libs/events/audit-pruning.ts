/**
 * Takes away audit rows that are past keeping, batch by batch from the oldest on, and leaves the hash that the chain goes
 * on from, so that what is left can still be verified (ADR 0026). Only the owner of the tables can.
 */
import { type Kysely, sql } from 'kysely';
import { SYSTEM_TENANT } from '#libs/core';
import type { DB } from '#libs/db';
import { writeAudit } from './audit.js';

/** Batches of one transaction. */
const STEP = 200;

export interface Pruned {
  rows: number;
  /** The last batch that went; null where none did. */
  uptoBatch: number | null;
}

/**
 * Removes the batches that were sealed before a time, but never the last one, and unsealed rows never. Each step commits
 * by itself: one that dies in between has pruned less, and the chain holds.
 * @param owner a connection as rhyzome_owner.
 */
export async function pruneAudit(owner: Kysely<DB>, before: Date, actor: string): Promise<Pruned> {
  const pruned: Pruned = { rows: 0, uptoBatch: null };
  for (;;) {
    const step = await owner.transaction().execute(async (tx) => {
      await sql`select pg_advisory_xact_lock(hashtextextended('rhyzome.audit_sealer', 0))`.execute(tx);
      const { rows: due } = await sql<{ batch: number; hash: Buffer }>`
        select batch, hash from audit_seal s where sealed_at < ${before}
          and batch < (select max(batch) from audit_seal)
          and not exists (select from audit_seal e where e.batch < s.batch and e.sealed_at >= ${before})
          and batch > coalesce((select max(upto_batch) from audit_pruning), 0)
        order by batch limit ${STEP}`.execute(tx);
      const last = due.at(-1);
      if (!last) return undefined;
      const { rows: gone } = await sql<{ n: number }>`
        with doomed as (delete from audit_digest where batch <= ${last.batch} returning tenant_id, ids),
        rows as (delete from audit a using (select tenant_id, unnest(ids) as id from doomed) d
          where a.tenant_id = d.tenant_id and a.id = d.id returning 1)
        select count(*)::int as n from rows`.execute(tx);
      await sql`delete from audit_seal where batch < ${last.batch}`.execute(tx);
      await sql`insert into audit_pruning (upto_batch, hash, before, row_count, actor)
        values (${last.batch}, ${last.hash}, ${before}, ${gone[0]!.n}, ${actor})`.execute(tx);
      const details = { before: before.toISOString(), rows: gone[0]!.n, uptoBatch: last.batch };
      await writeAudit(tx, { tenantId: SYSTEM_TENANT, actor, action: 'audit.prune', result: 'done', details });
      return { batch: last.batch, rows: gone[0]!.n, isFull: due.length === STEP };
    });
    if (!step) return pruned;
    pruned.rows += step.rows;
    pruned.uptoBatch = step.batch;
    if (!step.isFull) return pruned;
  }
}
