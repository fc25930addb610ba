/** Names while they change: an update holds the old name until it has ended, because it may have to give it back. */

import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError } from '#libs/core';
import { type Tx, violatedUnique } from '#libs/db';

/** The refusal of a name. */
export function nameTaken(kind: string, name: string): RhyzomeError {
  return new RhyzomeError('name_taken', `There is a ${kind} “${name}” already; take another name.`, {
    errors: [{ pointer: '/name', code: 'name_taken', message: 'is taken' }],
  });
}

/** Runs a write of a resource's row. Throws RhyzomeError `name_taken`. */
export async function takingName(core: Pick<ResourceCore, 'kind'>, name: string, write: Promise<void>): Promise<void> {
  try {
    await write;
  } catch (error) {
    throw violatedUnique(error) === 'resource_name' ? nameTaken(core.kind, name) : error;
  }
}

/**
 * Refuses a name that another resource's unended update would restore. Asked after the row was written: the unique index
 * has then waited for every update that was under way.
 */
export async function refuseHeldName(
  tx: Tx,
  core: Pick<ResourceCore, 'tenantId' | 'id' | 'kind'>,
  name: string,
): Promise<void> {
  const held = await sql`
    select 1 from job where tenant_id = ${core.tenantId} and kind = ${core.kind} and held_name = ${name}
      and finished_at is null and resource_id <> ${core.id} limit 1`.execute(tx);
  if (held.rows.length > 0) throw nameTaken(core.kind, name);
}
