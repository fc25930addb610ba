/** A network's VPN door and the addresses behind it, claimed under the network's lock. */
import { sql } from 'kysely';
import { formatIpv4, parseIpv4, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { doorAddress, lockNetworks } from '#libs/kinds/network';
import { newKeyPair } from './keys.js';

export interface Door {
  port: number;
  publicKey: string;
  endpoint: string | null;
}

/** The door's tunnel is a /24: all but network, router and broadcast address. */
const MAX_PEERS = 253;

/** The network's door; made if it has none. The network stays locked. Throws RhyzomeError `limit_reached`. */
export async function openDoor(tx: Tx, tenantId: string, networkId: string): Promise<Door> {
  await lockNetworks(tx, tenantId, [networkId]);
  const known = await sql<Door>`
    select port, public_key as "publicKey", endpoint from wireguard_door
    where tenant_id = ${tenantId} and network_id = ${networkId}`.execute(tx);
  if (known.rows[0]) return known.rows[0];
  const claimed = await sql<{ port: number | null }>`select claim_wireguard_port() as port`.execute(tx);
  const port = claimed.rows[0]?.port;
  if (!port) throw new RhyzomeError('limit_reached', 'This installation has no port left for another network’s VPN.');
  const { privateKey, publicKey } = newKeyPair();
  await tx
    .insertInto('wireguard_door')
    .values({ tenant_id: tenantId, network_id: networkId, port, private_key: privateKey, public_key: publicKey })
    .execute();
  return { port, publicKey, endpoint: null };
}

/** The lowest free address in a door's tunnel. The network is locked. Throws RhyzomeError `no_free_address`. */
export async function claimTunnelAddress(tx: Tx, tenantId: string, networkId: string, door: Door): Promise<string> {
  const first = parseIpv4(doorAddress(door.port))! + 1;
  const taken = await sql<{ address: string }>`
    select host(address) as address from wireguardpeer
    where tenant_id = ${tenantId} and network_id = ${networkId}`.execute(tx);
  const used = new Set(taken.rows.map(({ address }) => parseIpv4(address)));
  for (let address = first; address < first + MAX_PEERS; address++) {
    if (!used.has(address)) return formatIpv4(address);
  }
  throw new RhyzomeError('no_free_address', `A network’s VPN has room for ${MAX_PEERS} peers.`);
}
