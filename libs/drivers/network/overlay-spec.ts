/** Checks how a network spans nodes, and says what this machine's part of it has to know of the others. */
import type { LeaseSpec, NetworkSpec, OverlayNode, OverlaySpec } from '#libs/drivers/contract';
import { addressNumber, addressText, linkLocalOf, refuse } from './addresses.js';

/** What VXLAN puts around a frame on IPv4: 14 of Ethernet, 20 of IP, 8 of UDP, 8 of its own (RFC 7348 §5). */
export const overheadBytes = 50;

const maxNodes = 4096;

/** Something of the network that is on another node. */
export interface RemoteEnd {
  mac: string;
  /** Every address that it answers for, its link-local one included. */
  addresses: string[];
  at: OverlayNode;
}

function checkPort(port: unknown, what: string): number {
  if (!Number.isInteger(port) || (port as number) < 1 || (port as number) > 65_535) refuse(`${what} is no port`);
  return port as number;
}

function checkNode(node: OverlayNode, what: string): OverlayNode {
  return { address: addressText(addressNumber(node.address, what)), port: checkPort(node.port, `${what}'s port`) };
}

/** Throws DriverError `invalid_spec`, permanent. */
export function checkOverlay(value: NetworkSpec['overlay']): OverlaySpec | null {
  if (value === null || value === undefined) return null;
  const { vni, nodes, router, walled } = value;
  if (!Number.isInteger(vni) || vni < 1 || vni >= 2 ** 24) refuse('VNI is not between 1 and 16777215');
  if (!Array.isArray(nodes) || nodes.length > maxNodes) refuse('list of nodes is malformed');
  const own = checkNode(value, 'own underlay address');
  const others = nodes.map((node) => checkNode(node, 'underlay address of a node'));
  const addresses = [own, ...others].map(({ address }) => address);
  if (new Set(addresses).size !== addresses.length) refuse('nodes name an underlay address twice');
  if (router !== null && !others[router]) refuse('router is on none of its nodes');
  return { vni, ...own, nodes: others, router, walled: walled === true };
}

/** The node of a lease; throws `invalid_spec` where it is none of the overlay's. */
export function checkLeaseNode(node: unknown, overlay: OverlaySpec | null): number | null {
  if (node === null || node === undefined) return null;
  if (!overlay?.nodes[node as number]) refuse('lease is on none of its nodes');
  return node as number;
}

interface Spanning {
  overlay?: OverlaySpec | null;
  leases: readonly LeaseSpec[];
  gateway: string;
  gateway6: string | null;
  gatewayMac: string;
}

/** All of the network that is elsewhere: machines, and the router. */
export function remoteEnds({ overlay, leases, gateway, gateway6, gatewayMac }: Spanning): RemoteEnd[] {
  if (!overlay) return [];
  const ends = leases.flatMap(({ mac, ip, ip6, node }) =>
    node === null || node === undefined
      ? []
      : [{ mac, addresses: addressesOf(mac, ip, ip6), at: overlay.nodes[node]! }],
  );
  if (overlay.router === null) return ends;
  const router = { mac: gatewayMac, addresses: addressesOf(gatewayMac, gateway, gateway6) };
  return [...ends, { ...router, at: overlay.nodes[overlay.router]! }];
}

function addressesOf(mac: string, ip: string, ip6: string | null): string[] {
  return ip6 ? [ip, ip6, linkLocalOf(mac)] : [ip];
}
