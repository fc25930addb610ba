/** The manifest of kind group. */
import { sql } from 'kysely';
import { defineKind, type KindDefinition } from '#libs/resources';
import { GroupCreate, GroupUpdate, GroupView } from './group.dto.js';
import { GroupResource, type GroupRow } from './group.resource.js';

export const group: KindDefinition<GroupRow> = defineKind<GroupRow>({
  name: 'group',
  plural: 'groups',
  description: 'Users to whom grants give the same, together.',
  dto: { create: GroupCreate, update: GroupUpdate, view: GroupView },
  table: 'tenant_group',
  columns: ['description'],
  selections: {
    members: sql`(select count(*)::int from group_member m where m.tenant_id = k.tenant_id and m.group_id = k.id)`,
  },
  decidesAccess: true,
  readOnly: ['members'],
  immutable: ['name'],
  view: (row) => ({ description: row.description, members: { total: row.members } }),
  make: (scope) => new GroupResource(scope, group),
});
