/** The manifest of kind grant. */
import { sql } from 'kysely';
import { defineKind, type KindDefinition } from '#libs/resources';
import { GrantCreate, GrantUpdate, GrantView } from './grant.dto.js';
import { GrantResource, type GrantRow, subjectOf } from './grant.resource.js';
import { refuseWidening } from './role-meaning.js';
import type { StoredRule } from './rules.js';

export const grant: KindDefinition<GrantRow> = defineKind<GrantRow>({
  name: 'grant',
  plural: 'grants',
  description: 'What a user, a group, a role or a service account may do with which resources.',
  dto: { create: GrantCreate, update: GrantUpdate, view: GrantView },
  table: 'access_grant',
  columns: ['subject_type', 'subject', 'verbs', 'kinds', 'selector', 'resource_ids', 'rules'],
  readOnly: ['rules'],
  immutable: ['subject'],
  audited: ['subject', 'verbs', 'kinds', 'tagSelector', 'resources'],
  filters: {
    subject: {
      column: sql.ref('k.subject'),
      type: 'text',
      description: 'Id of a user or service account, or the name of a group or role, or a “sub”.',
    },
  },
  view: (row) => ({
    subject: subjectOf(row),
    verbs: row.verbs,
    kinds: row.kinds,
    ...(row.selector !== null && { tagSelector: row.selector }),
    ...(row.resource_ids !== null && { resources: row.resource_ids }),
    rules: row.rules.map(ruleView),
  }),
  make: (scope) => new GrantResource(scope, grant),
  leaving: refuseWidening,
  decidesAccess: true,
});

function ruleView({ verbs, kinds, selector, ids }: StoredRule) {
  return { verbs, kinds, ...(selector !== null && { tagSelector: selector }), ...(ids !== null && { resources: ids }) };
}
