/** Service accounts with keys go along when the tenant's login place moves; those without have API tokens only. */
import { putSubject } from '#libs/auth';
import { identity } from '#libs/identity';
import { goingAlong, type Moved, type Mover } from '#libs/kinds/realm';
import { findResource, inTransaction } from '#libs/resources';
import { serviceaccount } from './serviceaccount.kind.js';
import type { ServiceaccountRow } from './serviceaccount.resource.js';

export const serviceaccountMover: Mover = {
  kind: 'serviceaccount',
  account: 'program',
  order: 2,
  put: async (scope, place, signal) => {
    const moved: Moved[] = [];
    for (const id of await goingAlong(scope, 'serviceaccount')) {
      const row = (await findResource(scope, serviceaccount, id)) as ServiceaccountRow | undefined;
      if (!row?.public_keys) continue;
      const client = await identity().putProgram(place, { name: row.name, jwks: row.public_keys }, signal);
      moved.push({ id, ...client });
    }
    return moved;
  },
  note: async (tx, tenantId, { id, subject, clientId }) => {
    const row = (await findResource(inTransaction(tx, tenantId), serviceaccount, id)) as ServiceaccountRow | undefined;
    if (!row || subject === undefined || clientId === undefined) return;
    const owner = { tenantId, kind: 'serviceaccount' as const, resourceId: id };
    await putSubject(tx, owner, subject, row.enabled && row.state !== 'deleting');
    await tx
      .updateTable('serviceaccount')
      .set({ subject, client_id: clientId })
      .where('tenant_id', '=', tenantId)
      .where('id', '=', id)
      .execute();
  },
};
