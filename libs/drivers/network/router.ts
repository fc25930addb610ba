/**
 * What the router of a network lets through, inside its namespace. Guests get DHCP, DNS, metadata and ICMP of the
 * gateway and nothing else of it, peers of the VPN door DNS and ICMP; they go out by the uplink where there is one; from outside comes what a public address
 * or a forward leads in, and what peers of the VPN door send; the firewall decides about all of it.
 */
import type { Runner } from '#libs/drivers/host';
import { firewallChains, firewallRules, markOf } from './firewall.js';
import { nft } from './guard.js';
import { lan } from './links.js';
import { metadataAddress } from './names.js';
import type { CheckedNetwork } from './network-spec.js';

/** Name of the router's end of the way out, inside its namespace. */
export const wan = 'wan';

const t = 'inet rhyzome';

/** Replaces the router's rules, in one transaction. `door`: name of the VPN door's link. */
export async function applyRouterRules(
  runner: Runner,
  namespace: string,
  spec: CheckedNetwork,
  door: string,
): Promise<void> {
  const lines = [
    // Of an agent that knew IPv4 only.
    'add table ip rhyzome',
    'delete table ip rhyzome',
    `add table ${t}`,
    `delete table ${t}`,
    `add table ${t}`,
    ...input(spec, door),
    ...forward(spec, door),
    ...translation(spec),
  ];
  await nft(runner, lines, namespace);
  // Between two times with a firewall guests talk past the router, so that windows (RFC 9293 §3.4) are not where it
  // last saw them.
  const liberal = 'net/netfilter/nf_conntrack_tcp_be_liberal=1';
  await runner.run(['ip', 'netns', 'exec', namespace, 'sysctl', '-q', '-w', liberal]);
}

/** What the router itself takes. */
function input(spec: CheckedNetwork, door: string): string[] {
  const rule = (text: string) => `add rule ${t} input ${text}`;
  const limit = 'limit rate 100/second burst 100 packets accept';
  const lines = [
    `add chain ${t} input { type filter hook input priority filter; policy drop; }`,
    rule('iifname "lo" accept'),
    rule('ct state established,related accept'),
    rule(`iifname "${lan}" udp dport 67 accept`),
    rule(`iifname { "${lan}", "${door}" } meta l4proto { tcp, udp } th dport 53 accept`),
    rule(`iifname "${lan}" ip daddr ${metadataAddress} tcp dport 80 accept`),
    rule(`iifname != "${wan}" icmp type echo-request ${limit}`),
  ];
  if (spec.ipv6) {
    const discovery = 'nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert';
    lines.push(rule(`iifname "${lan}" icmpv6 type { ${discovery} } accept`));
    lines.push(rule(`iifname != "${wan}" icmpv6 type echo-request ${limit}`));
    lines.push(rule(`iifname "${lan}" udp sport 546 udp dport 547 accept`));
  }
  // The router sends to and fro on one link, and would tell guests of a shorter way, which the firewall is not on.
  lines.push(`add chain ${t} output { type filter hook output priority filter; policy accept; }`);
  lines.push(`add rule ${t} output icmpv6 type nd-redirect drop`);
  if (spec.wireguard) lines.push(rule(`iifname "${wan}" udp dport ${spec.wireguard.port} accept`));
  return lines;
}

function forward({ firewall }: CheckedNetwork, door: string): string[] {
  const rule = (text: string) => `add rule ${t} forward ${text}`;
  const lines = [
    `add chain ${t} ways`,
    `add rule ${t} ways iifname "${lan}" oifname { "${lan}", "${wan}", "${door}" } accept`,
    `add rule ${t} ways iifname "${wan}" oifname "${lan}" ct status dnat accept`,
    `add rule ${t} ways iifname "${door}" oifname "${lan}" accept`,
    `add chain ${t} forward { type filter hook forward priority filter; policy drop; }`,
    rule('ct state invalid counter drop'),
    // Tunnels are narrower than what the two ends of a connection know of.
    rule(`oifname "${door}" tcp flags syn / syn,rst tcp option maxseg size set rt mtu`),
  ];
  if (firewall.length === 0) return [...lines, rule('ct state established,related accept'), rule('jump ways')];
  const mark = `0x${markOf(firewall).toString(16)}`;
  return [
    ...lines,
    ...firewallRules(t, firewall),
    rule('ct state related accept'),
    rule(`ct state established ct mark ${mark} accept`),
    `add chain ${t} answers`,
    `add rule ${t} answers oifname "${lan}" jump ${firewallChains.back('out')}`,
    `add rule ${t} answers iifname "${lan}" jump ${firewallChains.back('in')}`,
    `add rule ${t} answers ct mark set ${mark} accept`,
    rule('ct state established ct direction reply goto answers'),
    rule(`iifname "${lan}" jump ${firewallChains.forth('out')}`),
    rule(`oifname "${lan}" jump ${firewallChains.forth('in')}`),
    rule(`ct mark set ${mark}`),
    // Known already, under other rules: the way was found then.
    rule('ct state established accept'),
    rule('jump ways'),
  ];
}

/** Public addresses and forwards, from wherever they are asked, and the way out. */
function translation(spec: CheckedNetwork): string[] {
  const before = (text: string) => `add rule ${t} prerouting ${text}`;
  const after = (text: string) => `add rule ${t} postrouting ${text}`;
  const lines = [
    `add chain ${t} prerouting { type nat hook prerouting priority dstnat; policy accept; }`,
    `add chain ${t} postrouting { type nat hook postrouting priority srcnat; policy accept; }`,
  ];
  for (const protocol of ['tcp', 'udp'] as const) {
    const forwards = spec.forwards.filter((one) => one.protocol === protocol);
    if (forwards.length === 0) continue;
    const map = forwards.map(({ publicIp, port, ip, targetPort }) => `${publicIp} . ${port} : ${ip} . ${targetPort}`);
    lines.push(before(`dnat ip to ip daddr . ${protocol} dport map { ${map.join(', ')} }`));
  }
  if (spec.publicAddresses.length > 0) {
    const inward = spec.publicAddresses.map(({ publicIp, ip }) => `${publicIp} : ${ip}`);
    const outward = spec.publicAddresses.map(({ publicIp, ip }) => `${ip} : ${publicIp}`);
    lines.push(before(`dnat ip to ip daddr map { ${inward.join(', ')} }`));
    lines.push(after(`oifname "${wan}" snat ip to ip saddr map { ${outward.join(', ')} }`));
  }
  // A guest that asks a neighbour by its public address must get the answer by this router, too.
  lines.push(after(`oifname "${lan}" ip saddr ${spec.subnet} ct status dnat snat ip to ${spec.gateway}`));
  lines.push(after(`oifname "${wan}" meta nfproto ipv4 masquerade`));
  return lines;
}
