/** The manifest of kind wireguardpeer. */
import { sql } from 'kysely';
import { defineKind, type KindDefinition } from '#libs/resources';
import { ConfigController, configPaths } from './config.controller.js';
import {
  WireguardpeerCreate,
  WireguardpeerSecrets,
  WireguardpeerUpdate,
  WireguardpeerView,
} from './wireguardpeer.dto.js';
import { WireguardpeerResource, type WireguardpeerRow } from './wireguardpeer.resource.js';

const door = (column: string) =>
  sql`(select ${sql.ref(`d.${column}`)} from wireguard_door d where d.tenant_id = k.tenant_id and d.network_id = k.network_id)`;

export const wireguardpeer: KindDefinition<WireguardpeerRow> = defineKind<WireguardpeerRow>({
  name: 'wireguardpeer',
  plural: 'wireguardpeers',
  description: 'Somebody who may enter a network from outside, by WireGuard.',
  dto: {
    create: WireguardpeerCreate,
    update: WireguardpeerUpdate,
    view: WireguardpeerView,
    secrets: WireguardpeerSecrets,
  },
  table: 'wireguardpeer',
  columns: ['network_id', 'public_key', 'allowed_addresses', 'preshared_key'],
  selections: {
    address: sql`host(k.address)`,
    subnet: sql`(select n.subnet::text from network n where n.tenant_id = k.tenant_id and n.id = k.network_id)`,
    endpoint: door('endpoint'),
    server_public_key: door('public_key'),
  },
  readOnly: ['hasPresharedKey', 'address', 'endpoint', 'serverPublicKey'],
  immutable: ['network', 'publicKey'],
  filters: {
    network: { column: sql.ref('k.network_id'), type: 'uuid', description: 'Id of the network.' },
    publicKey: { column: sql.ref('k.public_key'), type: 'text', description: 'Exactly this key.' },
  },
  view: (row) => ({
    network: row.network_id,
    publicKey: row.public_key,
    hasPresharedKey: row.preshared_key !== null,
    allowedAddresses: row.allowed_addresses ?? [row.subnet],
    address: row.address,
    endpoint: row.endpoint,
    serverPublicKey: row.server_public_key,
  }),
  make: (scope) => new WireguardpeerResource(scope, wireguardpeer),
  controllers: [ConfigController],
  extraPaths: configPaths,
});
