/** The manifest of kind publicaddress. */
import { sql } from 'kysely';
import { defineKind, type KindDefinition } from '#libs/resources';
import { PublicaddressCreate, PublicaddressUpdate, PublicaddressView } from './publicaddress.dto.js';
import { PublicaddressResource, type PublicaddressRow } from './publicaddress.resource.js';

export const publicaddress: KindDefinition<PublicaddressRow> = defineKind<PublicaddressRow>({
  name: 'publicaddress',
  plural: 'publicaddresses',
  description: 'An address at which machines are reached from outside.',
  dto: { create: PublicaddressCreate, update: PublicaddressUpdate, view: PublicaddressView },
  table: 'publicaddress',
  columns: ['pool', 'instance_id', 'network_id'],
  selections: { ip: sql`host(k.ip)` },
  readOnly: ['ip', 'network'],
  immutable: ['pool'],
  filters: {
    pool: { column: sql.ref('k.pool'), type: 'text', description: 'Name of the pool.' },
    ip: { column: sql`host(k.ip)`, type: 'text', description: 'Exactly this address.' },
    instance: { column: sql.ref('k.instance_id'), type: 'uuid', description: 'Id of the instance.' },
    network: { column: sql.ref('k.network_id'), type: 'uuid', description: 'Id of the network.' },
  },
  view: (row) => ({ pool: row.pool, ip: row.ip, instance: row.instance_id, network: row.network_id }),
  make: (scope) => new PublicaddressResource(scope, publicaddress),
});
