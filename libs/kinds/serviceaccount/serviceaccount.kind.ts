/** The manifest of kind serviceaccount. */
import { enableSubjects, forgetSubjects } from '#libs/auth';
import { defineKind, type KindDefinition } from '#libs/resources';
import { ServiceaccountCreate, ServiceaccountUpdate, ServiceaccountView } from './serviceaccount.dto.js';
import { ServiceaccountResource, type ServiceaccountRow } from './serviceaccount.resource.js';

export const serviceaccount: KindDefinition<ServiceaccountRow> = defineKind<ServiceaccountRow>({
  name: 'serviceaccount',
  plural: 'serviceaccounts',
  description: 'A program of the tenant, which grants say what it may do.',
  dto: { create: ServiceaccountCreate, update: ServiceaccountUpdate, view: ServiceaccountView },
  table: 'serviceaccount',
  columns: ['description', 'public_keys', 'enabled', 'client_id', 'subject'],
  decidesAccess: true,
  readOnly: ['enabled', 'clientId', 'subject'],
  immutable: ['name'],
  view: (row) => ({
    description: row.description,
    publicKeys: row.public_keys,
    enabled: row.enabled,
    clientId: row.client_id,
    subject: row.subject,
  }),
  make: (scope) => new ServiceaccountResource(scope, serviceaccount),
  leaving: (tx, core) => enableSubjects(tx, { tenantId: core.tenantId, resourceId: core.id }, false),
  upkeep: forgetSubjects,
  actions: {
    disable: {
      summary: 'Its tokens are refused from now on, until it is enabled again.',
      claim: async (resource, tx) => {
        await (resource as ServiceaccountResource).setEnabled(tx, false);
        return undefined;
      },
    },
    enable: {
      summary: 'Its tokens are accepted again.',
      claim: async (resource, tx) => {
        await (resource as ServiceaccountResource).setEnabled(tx, true);
        return undefined;
      },
    },
  },
});
