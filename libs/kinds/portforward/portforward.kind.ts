/** The manifest of kind portforward. */
import { sql } from 'kysely';
import { defineKind, type KindDefinition } from '#libs/resources';
import { PortforwardCreate, PortforwardUpdate, PortforwardView } from './portforward.dto.js';
import { PortforwardResource, type PortforwardRow } from './portforward.resource.js';

export const portforward: KindDefinition<PortforwardRow> = defineKind<PortforwardRow>({
  name: 'portforward',
  plural: 'portforwards',
  description: 'A port of a public address that leads to a machine.',
  dto: { create: PortforwardCreate, update: PortforwardUpdate, view: PortforwardView },
  table: 'portforward',
  columns: ['public_address_id', 'protocol', 'port', 'instance_id', 'network_id', 'network_asked', 'target_port'],
  selections: {
    ip: sql`(select host(a.ip) from publicaddress a where a.tenant_id = k.tenant_id and a.id = k.public_address_id)`,
  },
  readOnly: ['ip'],
  filters: {
    publicAddress: { column: sql.ref('k.public_address_id'), type: 'uuid', description: 'Id of the public address.' },
    instance: { column: sql.ref('k.instance_id'), type: 'uuid', description: 'Id of the instance.' },
    network: { column: sql.ref('k.network_id'), type: 'uuid', description: 'Id of the network.' },
    protocol: { column: sql.ref('k.protocol'), type: 'text', description: 'tcp or udp.' },
    port: { column: sql.ref('k.port'), type: 'integer', description: 'Exactly this port.' },
  },
  view: (row) => ({
    publicAddress: row.public_address_id,
    ip: row.ip,
    protocol: row.protocol,
    port: row.port,
    instance: row.instance_id,
    network: row.network_id,
    targetPort: row.target_port ?? row.port,
  }),
  make: (scope) => new PortforwardResource(scope, portforward),
});
