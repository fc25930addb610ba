/** IPv6 CIDRs (RFC 4291 §2.3) as numbers, and what may be one of either family. Text without zones or embedded IPv4. */
import ipaddr from 'ipaddr.js';
import { formatCidr4, parseCidr4 } from '#libs/core';

export interface Cidr6 {
  network: bigint;
  prefix: number;
}

const shape = /^([0-9a-f:]{2,39})\/(12[0-8]|1[01]\d|\d?\d)$/i;

/** `hostBits`: the address has bits set beyond its prefix. */
export function parseCidr6(text: string): (Cidr6 & { hostBits: boolean }) | undefined {
  const [, address = '', length = ''] = shape.exec(text) ?? [];
  if (!ipaddr.IPv6.isValid(address)) return undefined;
  const bytes = ipaddr.IPv6.parse(address).toByteArray();
  const value = bytes.reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  const prefix = Number(length);
  const hostBits = BigInt(128 - prefix);
  const network = (value >> hostBits) << hostBits;
  return { network, prefix, hostBits: network !== value };
}

/** As RFC 5952 writes it. */
export function formatCidr6({ network, prefix }: Cidr6): string {
  const bytes = Array.from({ length: 16 }, (_, i) => Number((network >> BigInt(8 * (15 - i))) & 255n));
  return `${new ipaddr.IPv6(bytes).toRFC5952String()}/${prefix}`;
}

/** True if the whole of `inner` lies in `outer`. */
export function isWithin6(inner: Cidr6, outer: Cidr6): boolean {
  const hostBits = BigInt(128 - outer.prefix);
  return inner.prefix >= outer.prefix && inner.network >> hostBits === outer.network >> hostBits;
}

/** What is wrong with the text of a CIDR of either family. */
export function cidrFindings(text: string): { code: string; message: string }[] {
  const cidr4 = parseCidr4(text);
  const cidr6 = parseCidr6(text);
  if (!cidr4 && !cidr6) {
    return [{ code: 'invalid_format', message: 'must be a CIDR such as 192.0.2.0/24 or 2001:db8::/48' }];
  }
  const normal = cidr4 ? formatCidr4(cidr4) : formatCidr6(cidr6!);
  return (cidr4 ?? cidr6)!.hostBits
    ? [{ code: 'invalid_value', message: `has bits set beyond its prefix; did you mean ${normal}?` }]
    : [];
}

/** Globally unique local (RFC 4193) and global unicast (RFC 4291 §2.4). */
const usable = ['fc00::/7', '2000::/3'].map((text) => parseCidr6(text)!);

/** What is wrong with the text of a network's IPv6 subnet. */
export function subnet6Findings(text: unknown): { code: string; message: string }[] {
  if (typeof text !== 'string') return [];
  const cidr = parseCidr6(text);
  if (!cidr) return [{ code: 'invalid_format', message: 'must be an IPv6 CIDR such as fd12:3456:789a::/64' }];
  if (cidr.hostBits) {
    return [{ code: 'invalid_value', message: `has bits set beyond its prefix; did you mean ${formatCidr6(cidr)}?` }];
  }
  if (cidr.prefix < 64 || cidr.prefix > 120) {
    return [{ code: 'out_of_range', message: 'must have a prefix from /64 to /120' }];
  }
  if (!usable.some((range) => isWithin6(cidr, range))) {
    return [{ code: 'invalid_value', message: 'must lie in fc00::/7 (unique local) or 2000::/3 (global unicast)' }];
  }
  return [];
}
