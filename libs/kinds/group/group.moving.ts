/** Groups go along when their tenant's login place moves: first, since users are in them. */
import { sql } from 'kysely';
import { identity } from '#libs/identity';
import { type Moved, movesAlong } from '#libs/kinds/realm';

movesAlong({
  kind: 'group',
  order: 1,
  put: async (scope, place, signal) => {
    const rows = await scope.rows(
      sql<{ id: string; name: string }>`select id, name from resource
        where tenant_id = ${scope.tenantId} and kind = 'group' and state <> 'deleting' order by id`.compile(
        scope.builder,
      ),
    );
    for (const { name } of rows) await identity().putGroup(place, name, signal);
    return rows.map(({ id }): Moved => ({ id }));
  },
  note: async () => undefined,
});
