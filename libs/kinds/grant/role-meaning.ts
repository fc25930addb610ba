/**
 * The last grant of a role keeps it from meaning what is built in. Taking that away gives, so nobody may who has not as
 * much himself.
 */
import { sql } from 'kysely';
import { type Actor, type Role, reachOf, roleAllows } from '#libs/auth';
import { type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { grantableKinds } from '#libs/resources';
import { authorOf } from './rules.js';

/** Throws RhyzomeError `forbidden`. */
export async function refuseWidening(tx: Tx, { tenantId, id }: ResourceCore, actor: Actor | undefined): Promise<void> {
  const own = await tx
    .selectFrom('access_grant')
    .select('subject')
    .where('tenant_id', '=', tenantId)
    .where('id', '=', id)
    .where('subject_type', '=', 'role')
    .executeTakeFirst();
  if (!own) return;
  // Two that take away one each wait for each other here.
  const rules = await sql<{ grant_id: string }>`
    select grant_id from access_rule where tenant_id = ${tenantId} and subject_type = 'role' and subject = ${own.subject}
    order by grant_id, ordinal for update`.execute(tx);
  if (rules.rows.some(({ grant_id }) => grant_id !== id)) return;
  if (hasAllOf(authorOf(actor, tenantId), own.subject as Role)) return;
  throw new RhyzomeError(
    'forbidden',
    `Without this grant the role ${own.subject} means again what is built in, which is more than you have.`,
  );
}

function hasAllOf(actor: Actor, role: Role): boolean {
  return ['*', ...grantableKinds().map(({ name }) => name)].every((kind) =>
    ['create', 'read', 'update', 'delete'].every(
      (verb) => !roleAllows(role, verb, kind) || reachOf(actor, verb, kind).all,
    ),
  );
}
