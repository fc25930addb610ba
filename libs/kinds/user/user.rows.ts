/** Users as rows: what several requests may race for, and what the identity provider is told of them. */
import { sql } from 'kysely';
import type { Role } from '#libs/auth';
import { RhyzomeError } from '#libs/core';
import { type Tx, violatedUnique } from '#libs/db';
import type { LoginUser, PasswordHash } from '#libs/identity';
import type { CoreDocument, CoreRow, RowScope, Who } from '#libs/resources';

export interface UserDocument extends CoreDocument {
  email?: string;
  firstName?: string;
  lastName?: string;
  role?: Role;
  groups?: string[];
}

export interface UserRow extends CoreRow {
  email: string | null;
  first_name: string | null;
  last_name: string | null;
  role: Role | null;
  /** Ids. */
  groups: string[];
  enabled: boolean;
  subject: string | null;
  last_invited_at: Date | null;
  invitation: PasswordHash | null;
}

/** The columns that follow from what is asked for. */
export function columnsOf({ email, firstName, lastName, role }: UserDocument) {
  return {
    email: email ?? null,
    first_name: firstName ?? null,
    last_name: lastName ?? null,
    role: role ?? null,
  };
}

/** Runs a write of a user's row. Throws RhyzomeError `already_exists` where another user has its address. */
export async function takingEmail(tx: Tx, who: Who, email: string | undefined, write: Promise<unknown>): Promise<void> {
  try {
    await write;
  } catch (error) {
    throw violatedUnique(error) === 'tenant_user_email' ? emailTaken() : error;
  }
  if (email === undefined) return;
  // What an update under way may have to give back; the index has waited for those that wrote at the same time.
  const held = await sql`select 1 from job where tenant_id = ${who.tenantId} and kind = 'user' and finished_at is null
    and resource_id <> ${who.id} and request -> 'previous' ->> 'email' = ${email} limit 1`.execute(tx);
  if (held.rows.length > 0) throw emailTaken();
}

function emailTaken(): RhyzomeError {
  return new RhyzomeError('already_exists', 'Another user of the tenant has this address.', {
    errors: [{ pointer: '/email', code: 'already_exists', message: 'is another user’s' }],
  });
}

/** Makes the user a member of these groups and of no others. */
export async function putMemberships(tx: Tx, { tenantId, id }: Who, groupIds: readonly string[]): Promise<void> {
  await sql`delete from group_member where tenant_id = ${tenantId} and user_id = ${id}
    and not group_id = any (${groupIds}::uuid[])`.execute(tx);
  // A group that has gone meanwhile is none to be in.
  await sql`insert into group_member (tenant_id, group_id, user_id)
    select g.tenant_id, g.id, ${id} from tenant_group g
    where g.tenant_id = ${tenantId} and g.id = any (${groupIds}::uuid[]) on conflict do nothing`.execute(tx);
}

/**
 * Refuses to take away the last one who can mend things: `last_admin`. Waits for others of the tenant that try the same.
 */
export async function refuseLastAdmin(tx: Tx, { tenantId, id }: Who): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`rhyzome.admins.${tenantId}`}, 0))`.execute(tx);
  const { rows } = await sql<{ is_admin: boolean; others: boolean }>`
    select bool_or(u.id = ${id}) as is_admin, coalesce(bool_or(u.id <> ${id}), false) as others
    from tenant_user u join resource r on r.tenant_id = u.tenant_id and r.id = u.id
    where u.tenant_id = ${tenantId} and u.role = 'admin' and u.enabled and r.state <> 'deleting'
      and r.observed_generation > 0`.execute(tx);
  const { is_admin: isAdmin, others } = rows[0]!;
  if (!isAdmin || others) return;
  throw new RhyzomeError('last_admin', 'It is the last enabled administrator of your tenant; make another one first.');
}

/** Names of those of the groups that there are. */
export async function groupNames(scope: RowScope, ids: readonly string[]): Promise<string[]> {
  if (ids.length === 0) return [];
  const rows = await scope.rows(
    sql<{ name: string }>`select r.name from resource r where r.tenant_id = ${scope.tenantId} and r.kind = 'group'
      and r.id = any (${ids}::uuid[]) and r.state <> 'deleting' order by r.name`.compile(scope.builder),
  );
  return rows.map(({ name }) => name);
}

/** The first of the groups that is not there yet at the identity provider. */
export async function unmadeGroup(tx: Tx, tenantId: string, ids: readonly string[]) {
  const { rows } = await sql<{ id: string; name: string; state: string }>`
    select id, name, state from resource where tenant_id = ${tenantId} and kind = 'group' and id = any (${ids}::uuid[])
      and observed_generation = 0 and state <> 'deleting' order by name limit 1`.execute(tx);
  return rows[0];
}

/** What the identity provider is told of a user. */
export async function loginUser(
  scope: RowScope,
  document: UserDocument,
  enabled: boolean,
  password?: PasswordHash,
): Promise<LoginUser> {
  const { name, email = null, firstName = null, lastName = null, role = null, groups = [] } = document;
  return {
    name,
    email,
    firstName,
    lastName,
    enabled,
    role,
    groups: await groupNames(scope, groups),
    ...(password && { password }),
  };
}
