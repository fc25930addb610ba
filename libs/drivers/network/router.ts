/**
 * What the router of a network lets through, inside its namespace: guests get DHCP, DNS and ICMP of the gateway and
 * nothing else of it; they go out by the uplink where there is one, and nobody comes in.
 */
import type { Runner } from '#libs/drivers/host';
import { nft } from './guard.js';
import { lan } from './links.js';

/** Name of the router's end of the way out, inside its namespace. */
export const wan = 'wan';

/** Replaces the router's rules. */
export async function applyRouterRules(runner: Runner, namespace: string): Promise<void> {
  const t = 'ip rhyzome';
  await nft(
    runner,
    [
      `add table ${t}`,
      `delete table ${t}`,
      `add table ${t}`,
      `add chain ${t} input { type filter hook input priority filter; policy drop; }`,
      `add rule ${t} input iifname "lo" accept`,
      `add rule ${t} input ct state established,related accept`,
      `add rule ${t} input iifname "${lan}" udp dport { 53, 67 } accept`,
      `add rule ${t} input iifname "${lan}" tcp dport 53 accept`,
      `add rule ${t} input iifname "${lan}" icmp type echo-request limit rate 100/second burst 100 packets accept`,
      `add chain ${t} forward { type filter hook forward priority filter; policy drop; }`,
      `add rule ${t} forward ct state established,related accept`,
      `add rule ${t} forward iifname "${lan}" oifname "${wan}" accept`,
      `add chain ${t} postrouting { type nat hook postrouting priority srcnat; policy accept; }`,
      `add rule ${t} postrouting oifname "${wan}" masquerade`,
    ],
    namespace,
  );
}
