/**
 * Addresses and ranges as they come in specs: checked, brought to their one written form (RFC 5952 for IPv6), and as
 * numbers, so that ranges can be held against each other.
 */
import ipaddr from 'ipaddr.js';
import { DriverError } from '#libs/drivers/contract';

/** A range of addresses of one family, both ends included. */
export interface Range {
  family: 4 | 6;
  first: bigint;
  last: bigint;
}

export interface Cidr extends Range {
  prefixLength: number;
}

/** Throws DriverError `invalid_spec`, permanent. */
export function refuse(what: string): never {
  throw new DriverError('invalid_spec', `The network's ${what}.`, { permanent: true });
}

const numberOf = (bytes: readonly number[]) => bytes.reduce((sum, byte) => sum * 256n + BigInt(byte), 0n);

export function isIpv4Text(address: unknown): boolean {
  return typeof address === 'string' && ipaddr.IPv4.isValidFourPartDecimal(address);
}

/** An IPv4 address as a number; throws `invalid_spec`. */
export function addressNumber(address: unknown, what: string): number {
  if (typeof address !== 'string' || !ipaddr.IPv4.isValidFourPartDecimal(address)) refuse(`${what} is no IPv4 address`);
  return Number(numberOf(ipaddr.IPv4.parse(address).toByteArray()));
}

/** The dotted form of a number. */
export function addressText(value: number): string {
  return [24, 16, 8, 0].map((shift) => (value >>> shift) & 255).join('.');
}

/** An IPv6 address as a number; throws `invalid_spec`. A zone is refused. */
export function address6Number(address: unknown, what: string): bigint {
  const wrong = typeof address !== 'string' || address.includes('%') || !ipaddr.IPv6.isValid(address);
  if (wrong) refuse(`${what} is no IPv6 address`);
  return numberOf(ipaddr.IPv6.parse(address).toByteArray());
}

/** The form of RFC 5952. */
export function address6Text(value: bigint): string {
  const bytes = Array.from({ length: 16 }, (_, i) => Number((value >> BigInt(8 * (15 - i))) & 255n));
  return new ipaddr.IPv6(bytes).toRFC5952String();
}

/** An address of either family as it is written; throws `invalid_spec`. */
export function checkAddress(address: unknown, what: string): string {
  if (typeof address === 'string' && address.includes(':')) return address6Text(address6Number(address, what));
  return addressText(addressNumber(address, what));
}

/** An IPv4 CIDR without host bits; throws `invalid_spec`. */
export function checkCidr(cidr: unknown, what: string): { first: number; last: number; prefixLength: number } {
  const { family, first, last, prefixLength } = parseRange(cidr, what, false);
  if (family !== 4) refuse(`${what} is no IPv4 CIDR`);
  return { first: Number(first), last: Number(last), prefixLength };
}

/** An address or a CIDR without host bits, of either family; throws `invalid_spec`. */
export function checkRange(text: unknown, what: string): Cidr {
  return parseRange(text, what, true);
}

function parseRange(text: unknown, what: string, addressAlone: boolean): Cidr {
  const match = typeof text === 'string' ? /^([0-9a-fA-F.:]+)(?:\/([0-9]{1,3}))?$/.exec(text) : null;
  const family = match?.[1]?.includes(':') ? 6 : 4;
  const bits = family === 6 ? 128 : 32;
  const prefixLength = match?.[2] === undefined ? bits : Number(match[2]);
  const isCidr = match !== null && (addressAlone || match[2] !== undefined);
  if (!isCidr || prefixLength > bits) refuse(`${what} is no ${addressAlone ? 'address or' : 'IPv4'} CIDR`);
  const first = family === 6 ? address6Number(match[1], what) : BigInt(addressNumber(match[1], what));
  const size = 1n << BigInt(bits - prefixLength);
  if (first % size !== 0n) refuse(`${what} has host bits`);
  return { family, first, last: first + size - 1n, prefixLength };
}

export function overlap(a: Range, b: Range): boolean {
  return a.family === b.family && a.first <= b.last && b.first <= a.last;
}

/** The same addresses in ranges that neither overlap nor touch, as an nftables set of this family takes them. */
export function disjoint(ranges: readonly Range[], family: 4 | 6): string[] {
  const sorted = ranges.filter((range) => range.family === family).sort((a, b) => (a.first < b.first ? -1 : 1));
  const merged: { first: bigint; last: bigint }[] = [];
  for (const { first, last } of sorted) {
    const before = merged.at(-1);
    if (!before || first > before.last + 1n) merged.push({ first, last });
    else if (last > before.last) before.last = last;
  }
  const text = (value: bigint) => (family === 6 ? address6Text(value) : addressText(Number(value)));
  return merged.map(({ first, last }) => (first === last ? text(first) : `${text(first)}-${text(last)}`));
}

/** The link-local address that a MAC makes: RFC 4291 appendix A. */
export function linkLocalOf(mac: string): string {
  const [a, b, c, d, e, f] = mac.split(':').map((byte) => Number.parseInt(byte, 16)) as number[];
  return address6Text(numberOf([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a! ^ 2, b!, c!, 0xff, 0xfe, d!, e!, f!]));
}
