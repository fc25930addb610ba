/** Checks a network's spec before any of it reaches a command, a file or a rule. */
import ipaddr from 'ipaddr.js';
import { DriverError, type LeaseSpec, type NetworkSpec } from '#libs/drivers/contract';

export interface CheckedNetwork extends NetworkSpec {
  prefixLength: number;
  netmask: string;
  network: string;
}

const maxLeases = 65_536;
const macShape = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/;
const labelShape = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

function refuse(what: string): never {
  throw new DriverError('invalid_spec', `The network's ${what}.`, { permanent: true });
}

/** An IPv4 address as a number; throws `invalid_spec`. */
export function addressNumber(address: unknown, what: string): number {
  if (typeof address !== 'string' || !ipaddr.IPv4.isValidFourPartDecimal(address)) refuse(`${what} is no IPv4 address`);
  return ipaddr.IPv4.parse(address)
    .toByteArray()
    .reduce((sum, byte) => sum * 256 + byte, 0);
}

/** The dotted form of a number. */
export function addressText(value: number): string {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.');
}

/** A CIDR without host bits; throws `invalid_spec`. */
export function checkCidr(cidr: unknown, what: string): { first: number; last: number; prefixLength: number } {
  const match = typeof cidr === 'string' ? /^([0-9.]+)\/([0-9]{1,2})$/.exec(cidr) : null;
  const prefixLength = Number(match?.[2]);
  if (!match || prefixLength > 32) refuse(`${what} is no IPv4 CIDR`);
  const first = addressNumber(match[1], what);
  const size = 2 ** (32 - prefixLength);
  if (first % size !== 0) refuse(`${what} has host bits`);
  return { first, last: first + size - 1, prefixLength };
}

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

/** Normalizes and checks every field. Throws DriverError `invalid_spec`, permanent. */
export function checkNetworkSpec(spec: NetworkSpec): CheckedNetwork {
  const { first, last, prefixLength } = checkCidr(spec.subnet, 'subnet');
  if (prefixLength < 8 || prefixLength > 30) refuse('subnet is not between /8 and /30');
  const inside = (address: unknown, what: string) => {
    const value = addressNumber(address, what);
    if (value <= first || value >= last) refuse(`${what} is no host of the subnet`);
    return value;
  };
  const gateway = inside(spec.gateway, 'gateway');
  const gatewayMac = checkMac(spec.gatewayMac, 'gateway MAC');
  if (!Number.isInteger(spec.mtu) || spec.mtu < 576 || spec.mtu > 9216) refuse('MTU is not between 576 and 9216');
  if (!Array.isArray(spec.dns) || spec.dns.length > 8) refuse('list of resolvers is malformed');
  if (!Array.isArray(spec.leases) || spec.leases.length > maxLeases) refuse('list of leases is malformed');
  const addresses = new Set<number>([gateway]);
  const macs = new Set<string>([gatewayMac]);
  const leases = spec.leases.map((lease: LeaseSpec) => {
    const value = inside(lease.ip, 'lease address');
    const mac = checkMac(lease.mac, 'lease MAC');
    if (addresses.has(value)) refuse(`address ${lease.ip} stands there twice`);
    if (macs.has(mac)) refuse(`MAC ${mac} stands there twice`);
    addresses.add(value);
    macs.add(mac);
    const hostname = lease.hostname ? lease.hostname.toLowerCase() : null;
    if (hostname !== null && !labelShape.test(hostname)) refuse('lease host name is malformed');
    return { ip: addressText(value), mac, hostname };
  });
  return {
    subnet: spec.subnet,
    gateway: addressText(gateway),
    gatewayMac,
    dns: spec.dns.map((server) => addressText(addressNumber(server, 'resolver'))),
    domain: checkDomain(spec.domain),
    mtu: spec.mtu,
    leases: leases.sort((a, b) => addressNumber(a.ip, 'ip') - addressNumber(b.ip, 'ip')),
    prefixLength,
    netmask: addressText((0xffffffff << (32 - prefixLength)) >>> 0),
    network: addressText(first),
  };
}
