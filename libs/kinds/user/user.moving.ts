/**
 * Users go along when the tenant's login place moves: the same name, role and groups, another `sub`, and no password, which
 * nobody can carry. What they were before stays known, so that their API tokens work on.
 */
import { putSubject } from '#libs/auth';
import { RhyzomeError } from '#libs/core';
import { identity, type LoginPlace, type LoginUser } from '#libs/identity';
import { goingAlong, type Moved, type Mover } from '#libs/kinds/realm';
import { findResource, inTransaction } from '#libs/resources';
import { user } from './user.kind.js';
import { loginUser, type UserRow } from './user.rows.js';

export const userMover: Mover = {
  kind: 'user',
  account: 'user',
  order: 2,
  put: async (scope, place, signal) => {
    const moved: Moved[] = [];
    for (const id of await goingAlong(scope, 'user')) {
      const row = (await findResource(scope, user, id)) as UserRow | undefined;
      if (!row) continue;
      const { name, email, first_name: firstName, last_name: lastName, role, groups, enabled } = row;
      const document = {
        name,
        groups,
        ...(email !== null && { email }),
        ...(firstName !== null && { firstName }),
        ...(lastName !== null && { lastName }),
        ...(role !== null && { role }),
      };
      moved.push({ id, ...(await putWithGroups(place, await loginUser(scope, document, enabled), signal)) });
    }
    return moved;
  },
  note: async (tx, tenantId, { id, subject }) => {
    const row = (await findResource(inTransaction(tx, tenantId), user, id)) as UserRow | undefined;
    if (!row || subject === undefined) return;
    const owner = { tenantId, kind: 'user' as const, resourceId: id };
    await putSubject(tx, owner, subject, row.enabled && row.state !== 'deleting');
    await tx
      .updateTable('tenant_user')
      .set({ subject })
      .where('tenant_id', '=', tenantId)
      .where('id', '=', id)
      .execute();
    if (row.subject === null || row.subject === subject) return;
    const before = row.subject;
    await tx
      .updateTable('apitoken')
      .set({ subject })
      .where('tenant_id', '=', tenantId)
      .where('subject', '=', before)
      .execute();
    // So that the user still sees the tokens that are its own.
    await tx
      .updateTable('resource')
      .set({ created_by: subject })
      .where('tenant_id', '=', tenantId)
      .where('kind', '=', 'apitoken')
      .where('created_by', '=', before)
      .execute();
  },
};

/** A group that was made since the groups had gone along follows with its first member. */
async function putWithGroups(place: LoginPlace, account: LoginUser, signal: AbortSignal): Promise<{ subject: string }> {
  try {
    return await identity().putUser(place, account, signal);
  } catch (error) {
    if (!(error instanceof RhyzomeError && error.code === 'not_found')) throw error;
    for (const name of account.groups) await identity().putGroup(place, name, signal);
    return identity().putUser(place, account, signal);
  }
}
