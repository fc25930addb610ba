/** Jobs of all tenants, as an administrator finds them. */
import { sql } from 'kysely';
import { isUuid, printable, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import type { JobRow, JobStepRow } from '#libs/jobs';

export interface JobFilter {
  tenant?: string;
  state?: string;
  limit: number;
}

/** The newest first. */
export async function listJobs(tx: Tx, filter: JobFilter): Promise<JobRow[]> {
  return tx
    .selectFrom('job')
    .selectAll()
    .$if(filter.tenant !== undefined, (qb) => qb.where('tenant_id', '=', filter.tenant!))
    .$if(filter.state !== undefined, (qb) => qb.where('state', '=', filter.state!))
    .orderBy('created_at', 'desc')
    .orderBy('id', 'desc')
    .limit(filter.limit)
    .execute();
}

/** With its steps. Throws RhyzomeError `not_found`. */
export async function findJob(tx: Tx, id: string, tenant?: string): Promise<{ row: JobRow; steps: JobStepRow[] }> {
  const row = isUuid(id)
    ? await tx
        .selectFrom('job')
        .selectAll()
        .where('id', '=', id)
        .$if(tenant !== undefined, (qb) => qb.where('tenant_id', '=', tenant!))
        .executeTakeFirst()
    : undefined;
  if (!row) {
    const where = tenant === undefined ? '' : ` of tenant ${printable(tenant)}`;
    throw new RhyzomeError('not_found', `There is no job “${printable(id)}”${where}. \`rhyzome job list\` names them.`);
  }
  const steps = await tx
    .selectFrom('job_step')
    .selectAll()
    .where('tenant_id', '=', row.tenant_id)
    .where('job_id', '=', row.id)
    .orderBy('ordinal')
    .execute();
  return { row, steps };
}

/** For the rest of the transaction the database's functions work for this tenant, as they do in the servers. */
export async function actInTenant(tx: Tx, tenantId: string): Promise<void> {
  await sql`select set_config('rhyzome.tenant_id', ${tenantId}, true)`.execute(tx);
}
