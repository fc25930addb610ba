/**
 * Every name that this driver gives to things outside. A link's name has 15 characters at most (IFNAMSIZ, netdevice(7)):
 * one letter for what it is, the installation's 8 hex digits, and 6 characters of a hash; the whole id stands in the
 * link's alias.
 */
import { createHash } from 'node:crypto';
import { DriverError, type Ref } from '#libs/drivers/contract';

/** Where guests ask about themselves, as cloud-init and others look for it. */
export const metadataAddress = '169.254.169.254';

const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';

function shortHash(text: string): string {
  const digest = createHash('sha256').update(text).digest();
  return Array.from(digest.subarray(0, 6), (byte) => alphabet[byte & 31]).join('');
}

/** Bridge of a network. */
export function bridgeName(installation: string, networkId: string): string {
  return `b${installation}${shortHash(networkId)}`;
}

/** MAC of a network's bridge, which sends nothing. */
export function bridgeMac(networkId: string): string {
  const bytes = createHash('sha256').update(`bridge/${networkId}`).digest().subarray(0, 6);
  bytes[0] = (bytes[0]! & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** The router's port on the bridge. */
export function routerPortName(installation: string, networkId: string): string {
  return `g${installation}${shortHash(networkId)}`;
}

/** The agent's end of the router's way out. */
export function uplinkName(installation: string, networkId: string): string {
  return `u${installation}${shortHash(networkId)}`;
}

/** The way to the other nodes that have the network: a VXLAN port of the bridge. */
export function overlayName(installation: string, networkId: string): string {
  return `v${installation}${shortHash(networkId)}`;
}

/** The VPN door inside the router; distinct on the whole machine, since wireguard-go's sockets lie in one directory. */
export function wireguardName(installation: string, networkId: string): string {
  return `w${installation}${shortHash(networkId)}`;
}

/** The only bridge port that may send with this MAC on this network: the name for a machine's tap device. */
export function leasePortName(installation: string, networkId: string, mac: string): string {
  return `t${installation}${shortHash(`${networkId}/${mac.toLowerCase()}`)}`;
}

/** Prefix of all links of one sort. */
export function linkPrefix(sort: 'b' | 'g' | 'u' | 't' | 'v', installation: string): string {
  return `${sort}${installation}`;
}

/** Network namespace of a network's router. */
export function namespaceName(installation: string, networkId: string): string {
  return `rz-${installation}-${networkId}`;
}

/** Name of the installation's tables in nftables. */
export function tableName(installation: string): string {
  return `rz_${installation}`;
}

/** What is written on a bridge, so that it can be told whose it is. */
export function bridgeAlias(installation: string, ref: Ref): string {
  return `rhyzome:${installation}:network:${ref.tenantId}:${ref.id}`;
}

/** Reads an alias; null: not one of this installation's. */
export function parseBridgeAlias(installation: string, alias: string | undefined): Ref | null {
  const [mark, owner, kind, tenantId, id] = (alias ?? '').split(':');
  if (mark !== 'rhyzome' || owner !== installation || kind !== 'network' || !tenantId || !id) return null;
  return { tenantId, kind, id };
}

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;

/** Throws `invalid_spec` unless the ids can stand in names and paths. */
export function checkRef(installation: string, ref: Ref): void {
  const wrong = !/^[0-9a-f]{8}$/.test(installation)
    ? 'installation'
    : !/^[a-z0-9]{1,63}$/.test(ref.tenantId)
      ? 'tenant id'
      : !uuid.test(ref.id)
        ? 'id'
        : null;
  if (wrong) throw new DriverError('invalid_spec', `The ${wrong} is malformed.`, { permanent: true });
}
