/** Certificates that were issued over the network, as rows. */
import { sql } from 'kysely';
import { printable, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import type { IdentityType, IssuedLeaf } from '#libs/pki';
import type { Holder } from './holder.js';

export interface CertificateView extends Holder {
  serial: string;
  state: 'valid' | 'expired' | 'revoked';
  notBefore: Date;
  notAfter: Date;
  issuedAt: Date;
  /** `token:ID`, or who renewed. */
  issuedBy: string;
  /** Serial of the one that it follows. */
  renews: string | null;
  revokedAt: Date | null;
  reason: string | null;
}

/** Under the holder's lock. */
export async function recordCertificate(
  tx: Tx,
  holder: Holder,
  leaf: IssuedLeaf,
  how: { by: string; renews?: string; source?: string },
): Promise<void> {
  await tx
    .insertInto('certificate')
    .values({
      serial: leaf.serial,
      kind: holder.kind,
      name: holder.name,
      chain: leaf.chain,
      not_before: leaf.notBefore,
      not_after: leaf.notAfter,
      issued_by: how.by,
      renews: how.renews ?? null,
      source: how.source ?? null,
    })
    .execute();
}

export interface CertificateFilter {
  kind?: IdentityType;
  name?: string;
  /** Expired and revoked ones, too. */
  all?: boolean;
}

const MAX_LISTED = 1000;

const selectCertificate = sql<CertificateView>`
  select c.serial, c.kind, c.name, c.not_before as "notBefore", c.not_after as "notAfter", c.issued_at as "issuedAt",
    c.issued_by as "issuedBy", c.renews, r.revoked_at as "revokedAt", r.reason,
    case when r.revoked_at is not null then 'revoked' when c.not_after <= now() then 'expired' else 'valid' end as state
  from certificate c
  left join lateral (
    select v.revoked_at, v.reason from revocation v
    where v.serial = c.serial or (v.kind = c.kind and v.name = c.name and c.issued_at <= v.revoked_at)
    order by v.revoked_at limit 1) r on true`;

/** Those that hold, the newest first, at most a thousand. */
export async function listCertificates(tx: Tx, { kind, name, all }: CertificateFilter): Promise<CertificateView[]> {
  const { rows } = await sql<CertificateView>`${selectCertificate}
    where (${kind ?? null}::text is null or c.kind = ${kind ?? null}) and (${name ?? null}::text is null or c.name = ${name ?? null})
      and (${all ?? false} or (r.revoked_at is null and c.not_after > now()))
    order by c.issued_at desc, c.serial limit ${MAX_LISTED}`.execute(tx);
  return rows;
}

/** Undefined: it was issued elsewhere. */
export async function findCertificate(tx: Tx, serial: string): Promise<CertificateView | undefined> {
  return (await sql<CertificateView>`${selectCertificate} where c.serial = ${serial}`.execute(tx)).rows[0];
}

/** Those that were got by showing this one. */
export async function successorsOf(tx: Tx, serial: string): Promise<string[]> {
  const { rows } = await sql<{ serial: string }>`
    with recursive later as (
      select serial from certificate where renews = ${serial}
      union select c.serial from certificate c join later l on c.renews = l.serial)
    select serial from later limit ${MAX_LISTED}`.execute(tx);
  return rows.map((row) => row.serial);
}

/** Upper hex without separators. Throws RhyzomeError `invalid` where it is no serial number. */
export function serialFrom(text: string): string {
  const serial = text.replaceAll(/[:\s]/g, '').toUpperCase();
  if (/^[0-9A-F]{1,40}$/.test(serial)) return serial;
  throw new RhyzomeError(
    'invalid',
    `“${printable(text)}” is no serial number: hex digits, as \`rhyzome pki show\` tells.`,
  );
}
