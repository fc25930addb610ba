/** Checks a network's spec before any of it reaches a command, a file or a rule. Its features: see feature-spec.ts. */
import { annexMac, type LeaseSpec, type NetworkSpec, type OverlaySpec } from '#libs/drivers/contract';
import {
  address6Number,
  address6Text,
  addressNumber,
  addressText,
  checkAddress,
  checkCidr,
  checkRange,
  refuse,
} from './addresses.js';
import { checkFirewall, checkForwards, checkPublicAddresses, checkWireguard } from './feature-spec.js';
import { checkLeaseNode, checkOverlay } from './overlay-spec.js';

export interface CheckedNetwork extends NetworkSpec {
  prefixLength: number;
  netmask: string;
  network: string;
  /** Null: no IPv6. */
  ipv6: {
    network: string;
    prefixLength: number;
    gateway: string;
    /** Addresses come by DHCPv6; otherwise guests make them of the prefix and their MACs. */
    stateful: boolean;
  } | null;
  overlay: OverlaySpec | null;
}

const maxLeases = 65_536;
const macShape = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;
const labelShape = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

function checkMac(mac: unknown, what: string): string {
  const text = typeof mac === 'string' ? mac.toLowerCase() : '';
  if (!macShape.test(text) || text === '00:00:00:00:00:00') refuse(`${what} is no MAC address`);
  if (Number.parseInt(text.slice(0, 2), 16) & 1) refuse(`${what} is a group address`);
  return text;
}

function checkDomain(domain: unknown): string | null {
  if (domain === null || domain === undefined || domain === '') return null;
  const text = typeof domain === 'string' ? domain.toLowerCase() : '';
  if (text.length > 253 || !text.split('.').every((label) => labelShape.test(label))) refuse('domain is malformed');
  return text;
}

/** An address that something in this subnet can have. Gives its normal form; throws `invalid_spec`. */
type Inside = (address: unknown, what: string) => string;

function insideOf(subnet: ReturnType<typeof checkCidr>): Inside {
  return (address, what) => {
    const value = addressNumber(address, what);
    if (value <= subnet.first || value >= subnet.last) refuse(`${what} is no host of the subnet`);
    return addressText(value);
  };
}

const reserved6 = ['::/8', 'fe80::/10', 'ff00::/8'].map((cidr) => checkRange(cidr, 'reserved range'));

function checkIpv6(spec: NetworkSpec): { ipv6: CheckedNetwork['ipv6']; inside6: Inside } {
  if (spec.subnet6 === null || spec.subnet6 === undefined) {
    if (spec.gateway6) refuse('gateway6 stands there without a subnet6');
    return { ipv6: null, inside6: (_address, what) => refuse(`${what} stands there without a subnet6`) };
  }
  const { family, first, last, prefixLength } = checkRange(spec.subnet6, 'subnet6');
  if (family !== 6 || prefixLength < 64 || prefixLength > 126) refuse('subnet6 is not between /64 and /126');
  if (reserved6.some((range) => first >= range.first && last <= range.last)) refuse('subnet6 is not for hosts');
  const inside6: Inside = (address, what) => {
    const value = address6Number(address, what);
    if (value <= first || value > last) refuse(`${what} is no host of the subnet6`);
    return address6Text(value);
  };
  const gateway = inside6(spec.gateway6, 'gateway6');
  return { ipv6: { network: address6Text(first), prefixLength, gateway, stateful: prefixLength > 64 }, inside6 };
}

function checkLeases(
  leases: unknown,
  used: Set<string>,
  overlay: OverlaySpec | null,
  [inside, inside6]: readonly [Inside, Inside],
): LeaseSpec[] {
  if (!Array.isArray(leases) || leases.length > maxLeases) refuse('list of leases is malformed');
  const once = (what: string, value: string) => {
    if (used.has(value)) refuse(`${what} ${value} stands there twice`);
    used.add(value);
    return value;
  };
  const checked = leases.map((lease: LeaseSpec) => {
    const ip = once('address', inside(lease.ip, 'lease address'));
    const mac = once('MAC', checkMac(lease.mac, 'lease MAC'));
    const none = lease.ip6 === null || lease.ip6 === undefined;
    const ip6 = none ? null : once('address', inside6(lease.ip6, 'lease IPv6 address'));
    const hostname = lease.hostname ? lease.hostname.toLowerCase() : null;
    if (hostname !== null && !labelShape.test(hostname)) refuse('lease host name is malformed');
    return { ip, mac, hostname, ip6, node: checkLeaseNode(lease.node, overlay) };
  });
  return checked.sort((a, b) => addressNumber(a.ip, 'ip') - addressNumber(b.ip, 'ip'));
}

/** Normalizes and checks every field. Throws DriverError `invalid_spec`, permanent. */
export function checkNetworkSpec(spec: NetworkSpec): CheckedNetwork {
  const subnet = checkCidr(spec.subnet, 'subnet');
  const { first, prefixLength } = subnet;
  if (prefixLength < 8 || prefixLength > 30) refuse('subnet is not between /8 and /30');
  const inside = insideOf(subnet);
  const gateway = inside(spec.gateway, 'gateway');
  const gatewayMac = checkMac(spec.gatewayMac, 'gateway MAC');
  const { ipv6, inside6 } = checkIpv6(spec);
  if (!Number.isInteger(spec.mtu) || spec.mtu < 576 || spec.mtu > 9216) refuse('MTU is not between 576 and 9216');
  // RFC 8200 §5.
  if (ipv6 && spec.mtu < 1280) refuse('MTU is below the 1280 that IPv6 needs');
  if (!Array.isArray(spec.dns) || spec.dns.length > 8) refuse('list of resolvers is malformed');
  const used = new Set([gateway, gatewayMac, annexMac, ...(ipv6 ? [ipv6.gateway] : [])]);
  const overlay = checkOverlay(spec.overlay);
  return {
    subnet: spec.subnet,
    gateway,
    subnet6: ipv6 ? `${ipv6.network}/${ipv6.prefixLength}` : null,
    gateway6: ipv6?.gateway ?? null,
    gatewayMac,
    dns: spec.dns.map((server) => checkAddress(server, 'resolver')),
    domain: checkDomain(spec.domain),
    mtu: spec.mtu,
    leases: checkLeases(spec.leases, used, overlay, [inside, inside6]),
    publicAddresses: checkPublicAddresses(spec.publicAddresses, inside),
    forwards: checkForwards(spec.forwards, inside),
    firewall: checkFirewall(spec.firewall),
    wireguard: checkWireguard(spec.wireguard, [spec.subnet, ...(spec.subnet6 ? [spec.subnet6] : [])]),
    overlay,
    prefixLength,
    netmask: addressText((0xffffffff << (32 - prefixLength)) >>> 0),
    network: addressText(first),
    ipv6,
  };
}
