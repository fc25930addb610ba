/** The manifest of kind network. */

import { sql } from 'kysely';
import { defineKind, type KindDefinition } from '#libs/resources';
import { LeaseController } from './lease.controller.js';
import { leasePaths, leaseSchemas } from './lease.openapi.js';
import { tellMembers } from './members.js';
import { NetworkCreate, NetworkUpdate, NetworkView } from './network.dto.js';
import { disregards, observed } from './network.observed.js';
import { NetworkResource, type NetworkRow } from './network.resource.js';
import { composeSpecs } from './node-specs.js';

export const network: KindDefinition<NetworkRow> = defineKind<NetworkRow>({
  name: 'network',
  plural: 'networks',
  description: 'A virtual network with a subnet, a router and DHCP leases.',
  dto: { create: NetworkCreate, update: NetworkUpdate, view: NetworkView },
  table: 'network',
  columns: ['subnet', 'subnet6', 'dns', 'domain', 'mtu', 'address_total', 'address_used'],
  selections: {
    gateway: sql`host(k.gateway)`,
    gateway6: sql`host(gateway6_of(k.subnet6, k.subnet, k.gateway))`,
  },
  readOnly: ['gateway6', 'addresses'],
  filters: {
    subnet: { column: sql.ref('k.subnet'), type: 'cidr', description: 'Exactly this subnet.' },
    subnet6: { column: sql.ref('k.subnet6'), type: 'cidr', description: 'Exactly this IPv6 subnet.' },
    domain: { column: sql.ref('k.domain'), type: 'text', description: 'Exactly this domain.' },
  },
  view: (row) => ({
    subnet: row.subnet,
    subnet6: row.subnet6,
    gateway: row.gateway,
    gateway6: row.gateway6,
    dns: row.dns,
    domain: row.domain,
    mtu: row.mtu,
    addresses: { total: row.address_total, used: row.address_used },
  }),
  make: (scope) => new NetworkResource(scope, network),
  observed,
  disregards,
  compose: composeSpecs,
  nodeChanged: (db, nodeId) => tellMembers(db, { nodeId }),
  upkeep: (db, signal) => tellMembers(db, { signal }),
  controllers: [LeaseController],
  extraPaths: leasePaths,
  extraSchemas: leaseSchemas,
});
