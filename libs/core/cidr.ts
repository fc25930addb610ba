/** IPv4 arithmetic (RFC 4632) on unsigned 32-bit numbers. Text is dotted decimal without leading zeros. */

const octet = '(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)';
const ipv4Pattern = new RegExp(`^${octet}(?:\\.${octet}){3}$`);
const cidrPattern = new RegExp(`^(${octet}(?:\\.${octet}){3})/(3[0-2]|[12]?\\d)$`);

export interface Cidr4 {
  network: number;
  prefix: number;
}

export function isIpv4(text: string): boolean {
  return ipv4Pattern.test(text);
}

/** Unsigned 32-bit value of a dotted address, or undefined. */
export function parseIpv4(text: string): number | undefined {
  if (!ipv4Pattern.test(text)) return undefined;
  return text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
}

export function formatIpv4(value: number): string {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.');
}

/** Parses `a.b.c.d/n`. `hostBits`: the address has bits set beyond its prefix. */
export function parseCidr4(text: string): (Cidr4 & { hostBits: boolean }) | undefined {
  const match = cidrPattern.exec(text);
  if (!match) return undefined;
  const address = parseIpv4(match[1]!)!;
  const prefix = Number(match[2]);
  const network = (address & mask(prefix)) >>> 0;
  return { network, prefix, hostBits: network !== address };
}

export function formatCidr4(cidr: Cidr4): string {
  return `${formatIpv4(cidr.network)}/${cidr.prefix}`;
}

function mask(prefix: number): number {
  return prefix === 0 ? 0 : (0xffffffff << (32 - prefix)) >>> 0;
}

export function broadcastOf(cidr: Cidr4): number {
  return (cidr.network | (~mask(cidr.prefix) >>> 0)) >>> 0;
}

export function contains(cidr: Cidr4, address: number): boolean {
  return (address & mask(cidr.prefix)) >>> 0 === cidr.network;
}

/** Addresses that hosts can have: all but network and broadcast. */
export function hostCount(cidr: Cidr4): number {
  return Math.max(0, 2 ** (32 - cidr.prefix) - 2);
}

const privateRanges = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'].map((text) => parseCidr4(text)!);

/** True if all of it lies in one of RFC 1918's ranges. */
export function isPrivate(cidr: Cidr4): boolean {
  return privateRanges.some((range) => range.prefix <= cidr.prefix && contains(range, cidr.network));
}

const macPattern = /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/;

/** Lower-case, colon-separated unicast MAC other than zero, or undefined. */
export function normalizeMac(text: string): string | undefined {
  const mac = text.toLowerCase().replaceAll('-', ':');
  if (!macPattern.test(mac) || mac === '00:00:00:00:00:00') return undefined;
  return (Number.parseInt(mac.slice(0, 2), 16) & 1) === 0 ? mac : undefined;
}
