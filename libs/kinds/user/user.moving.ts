/** Users go along when their tenant's login place moves, with another `sub`, their API tokens with them; passwords stay. */
import { sql } from 'kysely';
import { putSubject } from '#libs/auth';
import { identity } from '#libs/identity';
import { type Moved, movesAlong } from '#libs/kinds/realm';
import type { CoreRow } from '#libs/resources';
import { loginUser, type UserRow } from './user.rows.js';

type Going = Pick<UserRow, 'id' | 'name' | 'enabled' | 'email' | 'first_name' | 'last_name' | 'role' | 'groups'>;

movesAlong({
  kind: 'user',
  order: 2,
  put: async (scope, place, signal) => {
    const rows = await scope.rows(
      sql<Going>`select r.id, r.name, k.enabled, k.email, k.first_name, k.last_name, k.role,
          (select coalesce(jsonb_agg(m.group_id), '[]') from group_member m
            where m.tenant_id = k.tenant_id and m.user_id = k.id) as groups
        from resource r join tenant_user k on k.tenant_id = r.tenant_id and k.id = r.id
        where r.tenant_id = ${scope.tenantId} and r.state <> 'deleting' order by r.id`.compile(scope.builder),
    );
    const moved: Moved[] = [];
    for (const { id, name, enabled, email, first_name, last_name, role, groups } of rows) {
      const account = await loginUser(scope, { name, groups }, enabled);
      const filled = { ...account, email, firstName: first_name, lastName: last_name, role };
      moved.push({ id, ...(await identity().putUser(place, filled, signal)) });
    }
    return moved;
  },
  note: async (tx, tenantId, { id, subject }) => {
    const { rows } = await sql<{ old: string | null; enabled: boolean; state: CoreRow['state'] }>`
      select k.subject as old, k.enabled, r.state from tenant_user k
      join resource r on r.tenant_id = k.tenant_id and r.id = k.id where k.tenant_id = ${tenantId} and k.id = ${id}`.execute(
      tx,
    );
    const [row] = rows;
    if (!row || subject === undefined || row.old === subject) return;
    await putSubject(tx, { tenantId, kind: 'user', resourceId: id }, subject, row.enabled && row.state !== 'deleting');
    await sql`update tenant_user set subject = ${subject} where tenant_id = ${tenantId} and id = ${id}`.execute(tx);
    if (row.old === null) return;
    // What was given out at the old place is nobody's any more; what Rhyzome gave out stays good.
    await sql`update subject set enabled = false where tenant_id = ${tenantId} and subject = ${row.old}`.execute(tx);
    await sql`update resource r set created_by = ${subject} from apitoken t where t.tenant_id = ${tenantId}
      and t.subject = ${row.old} and r.tenant_id = t.tenant_id and r.id = t.id and r.created_by = ${row.old}`.execute(
      tx,
    );
    await sql`update apitoken set subject = ${subject} where tenant_id = ${tenantId} and subject = ${row.old}`.execute(
      tx,
    );
  },
});
