/**
 * What guests may send: nftables in the bridge family. From a lease's port only its MAC, and with it only its addresses
 * in IPv4, ARP, IPv6 and neighbour discovery (and DHCP's requests before it has one); no DHCP server, no router, no
 * VLAN tags, nothing from a port that has no lease, and nothing at all to this machine's own stack. One table an
 * installation, static rules over sets, so that a frame costs the same however many networks there are.
 *
 * A network with a firewall is walled: the kernel follows no connections on a bridge, so frames from guest to guest are
 * turned to the router by their destination's MAC, which needs nothing of the guests and works at once both ways.
 *
 * The port to a network's other nodes is a port of all the guests there, with the same rules, and of the router, if that
 * is there. What guests ask all of their link for, which only the router can answer, is turned to it, so that it finds its
 * node; what they ask the metadata address is turned to their own node's.
 */
import { annexMac } from '#libs/drivers/contract';
import { CommandError, type Runner } from '#libs/drivers/host';
import { address6Number, linkLocalOf } from './addresses.js';
import { leasePortName, linkPrefix, metadataAddress, overlayName, routerPortName, tableName } from './names.js';
import type { CheckedNetwork } from './network-spec.js';

/** What a network has put into the sets. Kept by the caller, since the sets do not say which network an element is of. */
export interface GuardEntry {
  port: string;
  mac: string;
  ip: string;
  ip6: string | null;
  /** MAC of the router that all its packets go to; null: they go where they say. */
  wall: string | null;
  /** MAC of the router where that is on another node, so that asking all of the link does not find it; null: it is here. */
  away: string | null;
  /** While the router is elsewhere, this machine answers at the metadata address. */
  annex: boolean;
}

/** All that a network may have in the sets. */
export interface Guarded {
  entries: GuardEntry[];
  /** MAC of the router that comes by the port of other nodes; null: it does not. */
  gateway: string | null;
}

/** What a spec makes of them. `hasMetadata`: guests are answered at the metadata address. */
export function guardedBy(
  installation: string,
  networkId: string,
  { leases, firewall, gatewayMac, overlay }: CheckedNetwork,
  hasMetadata: boolean,
): Guarded {
  const wall = firewall.length > 0 || overlay?.walled ? gatewayMac : null;
  const isAway = typeof overlay?.router === 'number';
  const elsewhere = overlayName(installation, networkId);
  const entries = leases.map(({ mac, ip, ip6, node }) => {
    const who = { mac, ip, ip6, wall };
    if (typeof node === 'number') return { ...who, port: elsewhere, away: null, annex: false };
    const port = leasePortName(installation, networkId, mac);
    return { ...who, port, away: isAway ? gatewayMac : null, annex: isAway && hasMetadata };
  });
  return { entries, gateway: isAway ? gatewayMac : null };
}

/** The target of a neighbour advertisement or solicitation, RFC 4861 §4.3 and §4.4: 16 bytes after the first 8. */
const target = '@th,64,128';
const neighbours = 'icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }';
const toGroup = 'ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00';
/** In what a DHCP server sends (RFC 2131 figure 1): after the header of UDP and 28 bytes. */
const clientMac = '@th,288,48';

function rules(installation: string): string[] {
  const t = `bridge ${tableName(installation)}`;
  const guests = `"${linkPrefix('t', installation)}*"`;
  const routers = `"${linkPrefix('g', installation)}*"`;
  const overlays = `"${linkPrefix('v', installation)}*"`;
  const guest = (rule: string) => `add rule ${t} guest ${rule}`;
  const chains = ['prerouting', 'onward', 'local', 'own', 'guest', 'pass', 'ask', 'overlay'];
  return [
    `add table ${t}`,
    `add set ${t} routers { type ifname; }`,
    `add set ${t} macs { type ifname . ether_addr; }`,
    `add set ${t} addresses { type ifname . ether_addr . ipv4_addr; }`,
    `add set ${t} addresses6 { type ifname . ether_addr . ipv6_addr; }`,
    `add set ${t} targets6 { typeof iifname . ether saddr . ${target}; }`,
    `add set ${t} walled { type ifname; }`,
    `add map ${t} walls { type ifname : ether_addr; }`,
    `add set ${t} gateways { type ifname . ether_addr; }`,
    `add map ${t} away { type ifname : ether_addr; }`,
    `add set ${t} annexes { type ifname; }`,
    `add chain ${t} prerouting { type filter hook prerouting priority -200; policy accept; }`,
    `add chain ${t} onward { type filter hook forward priority -200; policy accept; }`,
    `add chain ${t} local { type filter hook input priority -200; policy accept; }`,
    `add chain ${t} own { type filter hook output priority -200; policy accept; }`,
    `add chain ${t} guest`,
    `add chain ${t} pass`,
    `add chain ${t} ask`,
    `add chain ${t} overlay`,
    ...chains.map((chain) => `flush chain ${t} ${chain}`),
    guest('iifname . ether saddr != @macs drop'),
    guest('ether type ip udp sport 67 drop'),
    guest('ether type ip iifname . ether saddr . ip saddr @addresses goto pass'),
    guest('ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 goto ask'),
    guest('ether type arp iifname . arp saddr ether . arp saddr ip @addresses accept'),
    guest('ether type arp arp operation request iifname . arp saddr ether @macs arp saddr ip 0.0.0.0 accept'),
    guest('ether type ip6 udp sport 547 drop'),
    guest('ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } drop'),
    guest(`ether type ip6 icmpv6 type nd-neighbor-advert iifname . ether saddr . ${target} != @targets6 drop`),
    guest('ether type ip6 iifname . ether saddr . ip6 saddr @addresses6 goto pass'),
    // Before it has an address it asks whether somebody else has it (RFC 4862 §5.4).
    guest(
      `ether type ip6 ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . ether saddr . ${target} @targets6 accept`,
    ),
    guest('drop'),
    `add rule ${t} pass ether type ip6 ${neighbours} accept`,
    `add rule ${t} pass ether type ip ip daddr 255.255.255.255 udp dport 67 goto ask`,
    `add rule ${t} pass ether type ip6 icmpv6 type nd-router-solicit goto ask`,
    `add rule ${t} pass ether type ip6 ip6 daddr ff02::1:2 udp dport 547 goto ask`,
    `add rule ${t} pass iifname @annexes ether type ip ip daddr ${metadataAddress} ether daddr set ${annexMac} accept`,
    `add rule ${t} pass ${toGroup} accept`,
    `add rule ${t} pass ether daddr set iifname map @walls`,
    `add rule ${t} pass accept`,
    `add rule ${t} ask ether daddr set iifname map @away`,
    `add rule ${t} ask accept`,
    `add rule ${t} overlay iifname . ether saddr @gateways accept`,
    `add rule ${t} overlay ${toGroup} counter drop`,
    `add rule ${t} overlay ether type ip ip daddr ${metadataAddress} counter drop`,
    `add rule ${t} overlay goto guest`,
    // An answer for all of the link to whom it is about: its link is longer than this one.
    `add rule ${t} prerouting iifname @routers ether type ip ether daddr ff:ff:ff:ff:ff:ff udp sport 67 udp dport 68 @ll,0,48 set ${clientMac}`,
    `add rule ${t} prerouting iifname @routers accept`,
    `add rule ${t} prerouting iifname ${routers} drop`,
    `add rule ${t} prerouting iifname ${guests} goto guest`,
    `add rule ${t} prerouting iifname ${overlays} goto overlay`,
    `add rule ${t} onward oifname ${overlays} iifname @routers ether type ip6 icmpv6 type nd-router-advert accept`,
    `add rule ${t} onward oifname ${overlays} ${toGroup} counter drop`,
    // What a walled guest sends to all reaches the router only.
    `add rule ${t} onward iifname @walled oifname ${guests} ether type ip6 ${neighbours} accept`,
    `add rule ${t} onward iifname @walled oifname ${guests} ether type { ip, ip6 } counter drop`,
    `add rule ${t} local iifname { ${guests}, ${routers}, ${overlays} } drop`,
    // Nor does this machine say anything there; what a bridge answers for others does not pass here.
    `add rule ${t} own oifname { ${guests}, ${routers}, ${overlays} } drop`,
  ];
}

function elements(installation: string, verb: 'add' | 'delete', entries: readonly GuardEntry[]): string[] {
  const both = entries.flatMap(({ port, mac, ip6 }) =>
    (ip6 ? [linkLocalOf(mac), ip6] : []).map((ip) => [port, mac, ip]),
  );
  const walled = entries.filter(({ wall }) => wall !== null);
  const elsewhere = linkPrefix('v', installation);
  const ports = new Map(walled.map(({ port, wall }) => [port, wall]));
  return change(installation, verb, {
    macs: entries.map(({ port, mac }) => `"${port}" . ${mac}`),
    addresses: entries.map(({ port, mac, ip }) => `"${port}" . ${mac} . ${ip}`),
    addresses6: both.map(([port, mac, ip]) => `"${port}" . ${mac} . ${ip}`),
    targets6: both.map(([port, mac, ip]) => `"${port}" . ${mac} . 0x${address6Number(ip, 'ip').toString(16)}`),
    // By the port of other nodes comes the router, too.
    walled: [...ports.keys()].filter((port) => !port.startsWith(elsewhere)).map((port) => `"${port}"`),
    walls: [...ports].map(([port, wall]) => `"${port}" : ${wall}`),
    away: entries.filter(({ away }) => away !== null).map(({ port, away }) => `"${port}" : ${away}`),
    annexes: entries.filter(({ annex }) => annex).map(({ port }) => `"${port}"`),
  });
}

function change(installation: string, verb: 'add' | 'delete', sets: Record<string, readonly string[]>): string[] {
  const t = `bridge ${tableName(installation)}`;
  return Object.entries(sets)
    .filter(([, values]) => values.length > 0)
    .map(([set, values]) => `${verb} element ${t} ${set} { ${values.join(', ')} }`);
}

/** Lets exactly what is guarded `now` of a network pass, and takes what is `stale` away, in one transaction. */
export async function applyGuard(
  runner: Runner,
  installation: string,
  networkId: string,
  stale: Guarded,
  now: Guarded,
): Promise<void> {
  await nft(runner, [
    ...rules(installation),
    ...change(installation, 'add', { routers: [`"${routerPortName(installation, networkId)}"`] }),
    // Adding before deleting makes deleting what is not there no error.
    ...changes(installation, 'add', networkId, stale),
    ...changes(installation, 'delete', networkId, stale),
    ...changes(installation, 'add', networkId, now),
  ]);
}

/** Undo of applyGuard. `last`: no network is left, so the table goes too. */
export async function removeGuard(
  runner: Runner,
  installation: string,
  networkId: string,
  stale: Guarded,
  last: boolean,
): Promise<void> {
  const t = `bridge ${tableName(installation)}`;
  if (last) return nft(runner, [`add table ${t}`, `delete table ${t}`]);
  const port = { routers: [`"${routerPortName(installation, networkId)}"`] };
  await nft(runner, [
    ...rules(installation),
    ...change(installation, 'add', port),
    ...change(installation, 'delete', port),
    ...changes(installation, 'add', networkId, stale),
    ...changes(installation, 'delete', networkId, stale),
  ]);
}

function changes(
  installation: string,
  verb: 'add' | 'delete',
  networkId: string,
  { entries, gateway }: Guarded,
): string[] {
  const gateways = gateway === null ? [] : [`"${overlayName(installation, networkId)}" . ${gateway}`];
  return [...elements(installation, verb, entries), ...change(installation, verb, { gateways })];
}

/** One nftables transaction; every value in it has been checked or made by us. `namespace`: a router's. */
export async function nft(runner: Runner, lines: readonly string[], namespace?: string): Promise<void> {
  const where = namespace === undefined ? [] : ['ip', 'netns', 'exec', namespace];
  const input = `${lines.join('\n')}\n`;
  try {
    await runner.run([...where, 'nft', '-f', '-'], { input });
  } catch (error) {
    // Another program's change of the rules at the same moment is told as EBUSY or EAGAIN: once more.
    if (!(error instanceof CommandError) || !/busy|temporarily/i.test(error.stderr)) throw error;
    await runner.run([...where, 'nft', '-f', '-'], { input });
  }
}
