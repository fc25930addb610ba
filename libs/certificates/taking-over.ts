/**
 * Takes over what a node knows to be revoked and this database does not, as after a restore from a backup. The list that it
 * hands back was signed by an issuer of this CA; whoever calls has verified that.
 */
import { sql } from 'kysely';
import { newId, SYSTEM_TENANT } from '#libs/core';
import type { Database } from '#libs/db';
import { writeAudit } from '#libs/events';
import type { RevokedSet } from '#libs/pki';

/** Returns how many were not known. Harmless to do again. */
export async function takeOverRevocations(db: Database, list: RevokedSet, nodeName: string): Promise<number> {
  const { serials, holders } = list.list;
  const by = `node:${nodeName}`;
  return db.operatorTransaction(async (tx) => {
    const missing = await sql<{ serial: string }>`
      select k.serial from unnest(${[...serials]}::text[]) k (serial)
      where not exists (select from revocation r where r.serial = k.serial) order by 1`.execute(tx);
    let taken = 0;
    for (const { serial } of missing.rows) {
      const made = await sql`insert into revocation (id, serial, revoked_by, taken_over_at)
        values (${newId()}, ${serial}, ${by}, now()) on conflict (serial) do nothing`.execute(tx);
      taken += Number(made.numAffectedRows ?? 0n);
    }
    for (const { type, name, revokedAtMs } of holders) {
      const made = await sql`insert into revocation (id, kind, name, revoked_at, revoked_by, taken_over_at)
        values (${newId()}, ${type}, ${name}, ${new Date(revokedAtMs)}, ${by}, now())
        on conflict (kind, name) do update set revoked_at = excluded.revoked_at, revoked_by = excluded.revoked_by,
          taken_over_at = excluded.taken_over_at
        where revocation.revoked_at < excluded.revoked_at`.execute(tx);
      taken += Number(made.numAffectedRows ?? 0n);
    }
    if (taken > 0)
      await writeAudit(tx, {
        tenantId: SYSTEM_TENANT,
        actor: by,
        action: 'certificate.takeOver',
        result: 'done',
        details: { revocations: taken },
      });
    return taken;
  });
}
