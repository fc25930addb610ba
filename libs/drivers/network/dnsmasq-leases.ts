/**
 * Leases as dnsmasq keeps them in its file, and the DHCPRELEASE (RFC 2131 §4.4.6, as dhcp_release(1) sends) that makes
 * it forget one. A line of DHCP: expiry, MAC, address, name, client id. After the line `duid …`, DHCPv6's: expiry,
 * IAID, address, name, the client's DUID.
 */
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { readOr } from './files.js';
import type { CheckedNetwork } from './network-spec.js';

/** A lease as dnsmasq holds it. */
export interface Held {
  mac: string;
  ip: string;
}

/** What was given away before and is not any more, or is another's now, whether or not anybody ever took it. */
export interface Stale {
  leases: readonly Held[];
  addresses6: readonly string[];
}

/** Size of a DHCP packet without much in it, as RFC 1542 §2.1 wants it at least. */
export const packetBytes = 300;

/** DHCP leases that it still holds though the spec no longer has them. */
export async function heldWithoutRight(leaseFile: string, spec: CheckedNetwork): Promise<Held[]> {
  const right = new Set(spec.leases.map(({ mac, ip }) => `${mac} ${ip}`));
  const lines = (await readOr(leaseFile, '')).split('\n');
  return lines.flatMap((line) => parseLease(line) ?? []).filter(({ mac, ip }) => !right.has(`${mac} ${ip}`));
}

/** Whether it holds a DHCPv6 lease that is nobody's any more, or stale. */
export async function holdsStale6(leaseFile: string, spec: CheckedNetwork, stale: Stale): Promise<boolean> {
  const keeps = keeps6(spec, stale);
  return (await readOr(leaseFile, '')).split('\n').some((line) => isLease6(line) && !keeps(line));
}

/** Only while it does not run. */
export async function forgetInFile(leaseFile: string, spec: CheckedNetwork, stale: Stale): Promise<void> {
  const right = new Set(spec.leases.map(({ mac, ip }) => `${mac} ${ip}`));
  const keeps = keeps6(spec, stale);
  const text = await readOr(leaseFile, '');
  const kept = text.split('\n').filter((line) => {
    const lease = parseLease(line);
    if (lease) return right.has(`${lease.mac} ${lease.ip}`);
    return line.startsWith('duid ') || (isLease6(line) && keeps(line));
  });
  if (text !== '') await writeFile(leaseFile, kept.map((line) => `${line}\n`).join(''));
}

function keeps6(spec: CheckedNetwork, stale: Stale): (line: string) => boolean {
  const right = new Set(spec.leases.flatMap(({ ip6 }) => ip6 ?? []));
  for (const ip6 of stale.addresses6) right.delete(ip6);
  return (line) => right.has(line.split(' ')[2] ?? '');
}

function isLease6(line: string): boolean {
  return line.split(' ')[2]?.includes(':') ?? false;
}

function parseLease(line: string): Held | null {
  const [, mac, ip] = line.split(' ');
  return mac && ip && /^[0-9a-f:]{17}$/.test(mac) ? { mac, ip } : null;
}

/** DHCPRELEASE: RFC 2131 figure 1 and table 5; options 53 (type 7) and 54 (server) of RFC 2132. */
export function releasePacket(lease: Held, server: string): Uint8Array {
  const packet = Buffer.alloc(packetBytes);
  packet.set([1, 1, 6, 0], 0);
  packet.set(randomBytes(4), 4);
  packet.set(lease.ip.split('.').map(Number), 12);
  packet.set(
    lease.mac.split(':').map((byte) => Number.parseInt(byte, 16)),
    28,
  );
  packet.set([99, 130, 83, 99, 53, 1, 7, 54, 4, ...server.split('.').map(Number), 255], 236);
  return packet;
}
