/**
 * How much of what a tenant may have. What there is to limit, and where it is used, the migrations of the kinds say; the
 * database charges it in the transactions that use it (0008_quotas.sql). Every function works in the caller's transaction,
 * which spans tenants (role operator); whoever calls writes the audit row.
 */
import { sql } from 'kysely';
import { invalid, printable, RhyzomeError, SYSTEM_TENANT } from '#libs/core';
import type { Tx } from '#libs/db';
import { findTenant } from './tenants.js';

/** In the place of a tenant's id: what tenants get that are made from then on. */
export const DEFAULT_QUOTAS = '*';

export interface Quota {
  /** `*`: a default. */
  tenantId: string;
  /** What is limited: instances, vcpus, diskGiB … */
  name: string;
  max: number;
  /** Null for a default. */
  used: number | null;
}

/** What can be limited, by name. */
export async function quotaNames(tx: Tx): Promise<string[]> {
  const rows = await tx.selectFrom('quota_source').select('name').distinct().orderBy('name').execute();
  return rows.map(({ name }) => name);
}

/** Those of one tenant, the defaults (`*`), or all. Throws RhyzomeError `not_found`. */
export async function listQuotas(tx: Tx, tenantId?: string): Promise<Quota[]> {
  if (tenantId !== undefined && tenantId !== DEFAULT_QUOTAS) await findTenant(tx, tenantId);
  const result = await sql<Quota>`
    select * from (select tenant_id as "tenantId", name, max, used from quota
      union all select ${DEFAULT_QUOTAS}, name, max, null from quota_default) q
    where ${tenantId ?? null}::text is null or "tenantId" = ${tenantId ?? null} order by "tenantId", name`.execute(tx);
  return result.rows;
}

/**
 * Sets limits of a tenant or the defaults; others stay. A limit below what is used takes nothing away: nothing more can be
 * had until enough is given back. Throws RhyzomeError `not_found`, `invalid`, `conflict`.
 */
export async function setQuotas(tx: Tx, tenantId: string, limits: Readonly<Record<string, number>>): Promise<void> {
  await refuseOtherTenants(tx, tenantId);
  await refuseUnknown(tx, Object.keys(limits));
  for (const [name, max] of Object.entries(limits).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (!Number.isSafeInteger(max) || max < 0) throw wrong(name, 'must be a whole number, 0 or more');
    if (tenantId === DEFAULT_QUOTAS) {
      await tx
        .insertInto('quota_default')
        .values({ name, max })
        .onConflict((oc) => oc.column('name').doUpdateSet({ max }))
        .execute();
    } else await sql`call set_quota(${tenantId}, ${name}, ${max})`.execute(tx);
  }
}

/** Takes limits away; one that is not set is none already. Throws RhyzomeError `not_found`, `invalid`. */
export async function unsetQuotas(tx: Tx, tenantId: string, names: readonly string[]): Promise<void> {
  await refuseOtherTenants(tx, tenantId);
  await refuseUnknown(tx, names);
  if (tenantId === DEFAULT_QUOTAS) await tx.deleteFrom('quota_default').where('name', 'in', names).execute();
  else await tx.deleteFrom('quota').where('tenant_id', '=', tenantId).where('name', 'in', names).execute();
}

async function refuseOtherTenants(tx: Tx, tenantId: string): Promise<void> {
  if (tenantId === SYSTEM_TENANT)
    throw new RhyzomeError('conflict', 'The tenant system holds the global images and has no limits.');
  if (tenantId !== DEFAULT_QUOTAS) await findTenant(tx, tenantId);
}

async function refuseUnknown(tx: Tx, names: readonly string[]): Promise<void> {
  const known = await quotaNames(tx);
  const unknown = names.find((name) => !known.includes(name));
  if (unknown !== undefined)
    throw wrong(printable(unknown), `is nothing that is limited; there are ${known.join(', ')}`);
  if (names.length === 0) throw wrong('', `name what to limit; there are ${known.join(', ')}`);
}

function wrong(name: string, message: string): RhyzomeError {
  return invalid([{ pointer: `/${name}`, code: 'invalid_value', message }]);
}
