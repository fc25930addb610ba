/**
 * Revoking, by serial number or all that a holder has: also what was issued by hand and the database has never seen. What
 * is revoked stays so; a holder is let in again by a certificate that was issued afterwards.
 */
import { sql } from 'kysely';
import { newId, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { type Holder, lockHolder } from './holder.js';
import { type CertificateView, findCertificate } from './issued.js';

const MAX_REASON = 255;

export interface RevocationAsked {
  reason?: string;
  /** `admin:LOGIN`. */
  by: string;
}

/** One certificate. `changed` is false when it was revoked by its serial already. Throws RhyzomeError `invalid`. */
export async function revokeSerial(
  tx: Tx,
  serial: string,
  asked: RevocationAsked,
): Promise<{ certificate?: CertificateView; changed: boolean }> {
  const known = await findCertificate(tx, serial);
  if (known) await lockHolder(tx, known);
  const made = await sql`insert into revocation (id, serial, reason, revoked_by)
    values (${newId()}, ${serial}, ${reasonOf(asked)}, ${asked.by}) on conflict (serial) do nothing`.execute(tx);
  return { certificate: await findCertificate(tx, serial), changed: made.numAffectedRows === 1n };
}

/**
 * All certificates that a holder has up to now; of a node the tokens that still give one, too. Those that are issued later
 * hold. Returns how many are known, and how many tokens ended. Throws RhyzomeError `invalid`.
 */
export async function revokeHolder(
  tx: Tx,
  holder: Holder,
  asked: RevocationAsked,
): Promise<{ certificates: number; tokens: number }> {
  const { kind, name } = holder;
  const reason = reasonOf(asked);
  await lockHolder(tx, holder);
  const { rows } = await sql<{ count: number }>`
    select count(*)::int as count from certificate c where c.kind = ${kind} and c.name = ${name} and c.not_after > now()
      and not exists (select from revocation r where r.serial = c.serial
        or (r.kind = c.kind and r.name = c.name and c.issued_at <= r.revoked_at))`.execute(tx);
  await sql`insert into revocation (id, kind, name, reason, revoked_by)
    values (${newId()}, ${kind}, ${name}, ${reason}, ${asked.by})
    on conflict (kind, name) do update set reason = excluded.reason, revoked_by = excluded.revoked_by,
      revoked_at = clock_timestamp()`.execute(tx);
  if (kind !== 'node') return { certificates: rows[0]!.count, tokens: 0 };
  const ended = await sql`update enrollment_token set revoked_at = now()
    where node_name = ${name} and revoked_at is null and expires_at > now()`.execute(tx);
  return { certificates: rows[0]!.count, tokens: Number(ended.numAffectedRows ?? 0n) };
}

function reasonOf({ reason }: RevocationAsked): string | null {
  if (reason !== undefined && (reason.length > MAX_REASON || /\p{Cc}/u.test(reason)))
    throw new RhyzomeError('invalid', `A reason is one line of at most ${MAX_REASON} characters.`);
  return reason ?? null;
}
