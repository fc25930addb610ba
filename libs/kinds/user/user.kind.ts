/** The manifest of kind user. */
import { sql } from 'kysely';
import { forgetSubjects } from '#libs/auth';
import { defineKind, type KindDefinition } from '#libs/resources';
import { UserCreate, UserSecrets, UserUpdate, UserView } from './user.dto.js';
import { leave, UserResource, type UserRow } from './user.resource.js';

export const user: KindDefinition<UserRow> = defineKind<UserRow>({
  name: 'user',
  plural: 'users',
  description: 'A person of the tenant, who logs in at its identity provider.',
  dto: { create: UserCreate, update: UserUpdate, view: UserView, secrets: UserSecrets },
  table: 'tenant_user',
  columns: ['email', 'first_name', 'last_name', 'role', 'enabled', 'subject', 'last_invited_at', 'invitation'],
  selections: {
    groups: sql`(select coalesce(jsonb_agg(m.group_id order by m.group_id), '[]') from group_member m
      where m.tenant_id = k.tenant_id and m.user_id = k.id)`,
  },
  decidesAccess: true,
  readOnly: ['enabled', 'subject', 'lastInvitedAt'],
  immutable: ['name'],
  audited: ['role', 'groups', 'email'],
  filters: {
    role: { column: sql.ref('k.role'), type: 'text', description: 'Exactly this role.' },
    email: { column: sql.ref('k.email'), type: 'text', description: 'Exactly this address, in lower case.' },
    subject: { column: sql.ref('k.subject'), type: 'text', description: 'The sub of its tokens.' },
  },
  view: (row) => ({
    email: row.email,
    firstName: row.first_name,
    lastName: row.last_name,
    role: row.role,
    groups: row.groups,
    enabled: row.enabled,
    subject: row.subject,
    lastInvitedAt: row.last_invited_at?.toISOString() ?? null,
  }),
  make: (scope) => new UserResource(scope, user),
  leaving: leave,
  upkeep: forgetSubjects,
  actions: {
    invite: {
      summary: 'Gives it a new one-time password, which the answer tells; the one that it has set is forgotten.',
      secrets: UserSecrets,
      claim: async (resource, tx, _body, { isRetry }) => {
        await (resource as UserResource).claimInvitation(tx, isRetry);
        return undefined;
      },
    },
    disable: {
      summary: 'It cannot log in, and its tokens are refused from now on, until it is enabled again.',
      claim: async (resource, tx) => {
        await (resource as UserResource).claimEnabled(tx, false);
        return undefined;
      },
    },
    enable: {
      summary: 'It can log in again.',
      claim: async (resource, tx) => {
        await (resource as UserResource).claimEnabled(tx, true);
        return undefined;
      },
    },
  },
});
