/**
 * The first grant of a role takes its built-in meaning away from all who have it, and taking the last one away gives it
 * back: nobody may do either who has not as much himself.
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

/**
 * The first grant of a role ends its built-in meaning for everybody who has it. Only who has as much himself may: nobody
 * else could take it back. The transaction holds the tenant's access. Throws RhyzomeError `forbidden`.
 */
export async function refuseNarrowing(
  tx: Tx,
  { tenantId, id }: ResourceCore,
  role: Role,
  author: Actor,
): Promise<void> {
  const others = await tx
    .selectFrom('access_rule')
    .select('grant_id')
    .where('tenant_id', '=', tenantId)
    .where('subject_type', '=', 'role')
    .where('subject', '=', role)
    .where('grant_id', '!=', id)
    .limit(1)
    .executeTakeFirst();
  if (others || hasAllOf(author, role)) return;
  const message = `With this first grant the role ${role} would no longer mean what is built in, which is more than you have.`;
  throw new RhyzomeError('forbidden', message, {
    errors: [{ pointer: '/subject/role', code: 'forbidden', message: 'is not yours to define' }],
  });
}

function hasAllOf(actor: Actor, role: Role): boolean {
  return ['*', ...grantableKinds().map(({ name }) => name)].every((kind) =>
    ['create', 'read', 'update', 'delete'].every(
      (verb) => !roleAllows(role, verb, kind) || reachOf(actor, verb, kind).all,
    ),
  );
}
