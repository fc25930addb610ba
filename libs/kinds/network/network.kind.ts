/** The manifest of kind network. */

import { sql } from 'kysely';
import { defineKind, type KindDefinition } from '#libs/resources';
import { LeaseController } from './lease.controller.js';
import { leasePaths, leaseSchemas } from './lease.openapi.js';
import { NetworkCreate, NetworkUpdate, NetworkView } from './network.dto.js';
import { NetworkResource, type NetworkRow } from './network.resource.js';

export const network: KindDefinition<NetworkRow> = defineKind<NetworkRow>({
  name: 'network',
  plural: 'networks',
  description: 'A virtual network with a subnet, a router and DHCP leases.',
  dto: { create: NetworkCreate, update: NetworkUpdate, view: NetworkView },
  table: 'network',
  columns: ['subnet', 'dns', 'domain', 'mtu', 'address_total', 'address_used'],
  selections: { gateway: sql`host(k.gateway)` },
  readOnly: ['addresses'],
  filters: {
    subnet: { column: sql.ref('k.subnet'), type: 'cidr', description: 'Exactly this subnet.' },
    domain: { column: sql.ref('k.domain'), type: 'text', description: 'Exactly this domain.' },
  },
  view: (row) => ({
    subnet: row.subnet,
    gateway: row.gateway,
    dns: row.dns,
    domain: row.domain,
    mtu: row.mtu,
    addresses: { total: row.address_total, used: row.address_used },
  }),
  make: (scope) => new NetworkResource(scope, network),
  controllers: [LeaseController],
  extraPaths: leasePaths,
  extraSchemas: leaseSchemas,
});
