/**
 * Whose certificates: the lock under which issuing to and revoking of a holder come one after the other, and what was
 * revoked of it. Without it, a renewal beside a revocation could slip through.
 */
import { sql } from 'kysely';
import type { Tx } from '#libs/db';
import type { IdentityType } from '#libs/pki';

export interface Holder {
  kind: IdentityType;
  name: string;
}

/** Until the transaction's end. What is read afterwards is what was committed before. */
export async function lockHolder(tx: Tx, { kind, name }: Holder): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`rhyzome.certificate ${kind}/${name}`}, 0))`.execute(tx);
}

/** Whether a certificate may not be used any more. Under the holder's lock. */
export async function isRevoked(tx: Tx, holder: Holder, serial: string, notBefore: Date): Promise<boolean> {
  const found = await sql`
    select 1 from revocation r left join certificate c on c.serial = ${serial}
    where r.serial = ${serial} or (r.kind = ${holder.kind} and r.name = ${holder.name}
      and coalesce(c.issued_at, ${notBefore.toISOString()}::timestamptz) <= r.revoked_at) limit 1`.execute(tx);
  return found.rows.length > 0;
}
