/** The manifest of kind firewallrule. */
import { sql } from 'kysely';
import { defineKind, type KindDefinition } from '#libs/resources';
import { FirewallruleCreate, FirewallruleUpdate, FirewallruleView } from './firewallrule.dto.js';
import { FirewallruleResource, type FirewallruleRow } from './firewallrule.resource.js';

export const firewallrule: KindDefinition<FirewallruleRow> = defineKind<FirewallruleRow>({
  name: 'firewallrule',
  plural: 'firewallrules',
  description: 'What may reach the machines of a network, or leave them.',
  dto: { create: FirewallruleCreate, update: FirewallruleUpdate, view: FirewallruleView },
  table: 'firewallrule',
  columns: [
    'network_id',
    'priority',
    'direction',
    'action',
    'protocol',
    'ports',
    'remote_cidrs',
    'remote_tags',
    'target_tags',
  ],
  immutable: ['network'],
  filters: {
    network: { column: sql.ref('k.network_id'), type: 'uuid', description: 'Id of the network.' },
    direction: { column: sql.ref('k.direction'), type: 'text', description: 'in or out.' },
    action: { column: sql.ref('k.action'), type: 'text', description: 'allow or deny.' },
    priority: { column: sql.ref('k.priority'), type: 'integer', description: 'Exactly this priority.' },
  },
  view: (row) => ({
    network: row.network_id,
    priority: row.priority,
    direction: row.direction,
    action: row.action,
    protocol: row.protocol,
    ports: row.ports,
    remoteCidrs: row.remote_cidrs,
    remoteTags: row.remote_tags,
    targetTags: row.target_tags,
  }),
  make: (scope) => new FirewallruleResource(scope, firewallrule),
});
