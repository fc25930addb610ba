/** Service accounts with keys go along when their tenant's login place moves; those without have nothing there. */
import { sql } from 'kysely';
import { putSubject } from '#libs/auth';
import { identity } from '#libs/identity';
import { type Moved, movesAlong } from '#libs/kinds/realm';
import type { PublicKeys } from './public-keys.js';

movesAlong({
  kind: 'serviceaccount',
  order: 1,
  put: async (scope, place, signal) => {
    const rows = await scope.rows(
      sql<{ id: string; name: string; keys: PublicKeys }>`select r.id, r.name, k.public_keys as keys
        from resource r join serviceaccount k on k.tenant_id = r.tenant_id and k.id = r.id
        where r.tenant_id = ${scope.tenantId} and r.state <> 'deleting' and k.public_keys is not null
        order by r.id`.compile(scope.builder),
    );
    const moved: Moved[] = [];
    for (const { id, name, keys } of rows)
      moved.push({ id, ...(await identity().putProgram(place, { name, jwks: keys }, signal)) });
    return moved;
  },
  note: async (tx, tenantId, { id, subject, clientId }) => {
    const { rows } = await sql<{ old: string | null; enabled: boolean; state: string }>`
      select k.subject as old, k.enabled, r.state from serviceaccount k
      join resource r on r.tenant_id = k.tenant_id and r.id = k.id where k.tenant_id = ${tenantId} and k.id = ${id}`.execute(
      tx,
    );
    const [row] = rows;
    if (!row || subject === undefined || row.old === subject) return;
    const owner = { tenantId, kind: 'serviceaccount' as const, resourceId: id };
    await putSubject(tx, owner, subject, row.enabled && row.state !== 'deleting');
    await sql`update serviceaccount set subject = ${subject}, client_id = ${clientId ?? null}
      where tenant_id = ${tenantId} and id = ${id}`.execute(tx);
    if (row.old !== null)
      await sql`update subject set enabled = false where tenant_id = ${tenantId} and subject = ${row.old}`.execute(tx);
  },
});
