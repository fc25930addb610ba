/**
 * What is hashed of audit rows and how the hashes are chained (ADR 0026); shared by whoever seals and whoever verifies, so
 * that both mean the same. The text of a row is said here and not by a function in the database, which who changes rows
 * could change with them.
 *
 * digest of a tenant in a batch = SHA-256 over the SHA-256 of each row's text, in the order of their ids.
 * hash of a batch = SHA-256 over the previous hash (32 bytes; zeros before the first batch) and this text in UTF-8:
 * `rhyzome audit`, number, era, time in ISO 8601 and number of rows, then tenant, number of rows and digest (hex) of each
 * tenant in the order of its id; members of a line parted by one blank, lines ended by a line feed.
 */
import { createHash } from 'node:crypto';
import { sql } from 'kysely';

/** A row of `audit` (alias a) as it is hashed. */
const rowText = sql`json_build_array(a.tenant_id, a.id, to_char(a.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'),
  a.actor, a.action, a.kind, a.resource_id, a.resource_name, a.result, a.code, a.request_id, a.source, a.details)::text`;

/** An aggregate over rows of `audit` (alias a) of one tenant; null where there are none. */
export const rowsDigest = sql<Buffer>`sha256(string_agg(sha256(convert_to(${rowText}, 'UTF8')), ''::bytea order by a.id)
  filter (where a.id is not null))`;

/** The hash before the first batch. */
export const NO_HASH: Buffer = Buffer.alloc(32);

export interface TenantDigest {
  tenantId: string;
  count: number;
  digest: Buffer;
}

export interface Batch {
  batch: number;
  era: number;
  sealedAt: Date;
  rowCount: number;
  previous: Buffer;
}

/** The hash of a batch. */
export function hashOf(batch: Batch, digests: readonly TenantDigest[]): Buffer {
  const lines = [...digests]
    .sort((a, b) => (a.tenantId < b.tenantId ? -1 : 1))
    .map(({ tenantId, count, digest }) => `${tenantId} ${count} ${digest.toString('hex')}\n`);
  const head = `rhyzome audit ${batch.batch} ${batch.era} ${batch.sealedAt.toISOString()} ${batch.rowCount}\n`;
  return createHash('sha256')
    .update(batch.previous)
    .update(`${head}${lines.join('')}`)
    .digest();
}
