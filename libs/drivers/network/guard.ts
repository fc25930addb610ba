/**
 * What guests may send: nftables in the bridge family. From a lease's port only its MAC, and with it only its addresses
 * in IPv4, ARP, IPv6 and neighbour discovery (and DHCP's requests before it has one); no DHCP server, no router, no
 * VLAN tags, nothing from a port that has no lease, and nothing at all to this machine's own stack. One table an
 * installation, static rules over sets, so that a frame costs the same however many networks there are.
 *
 * A network with a firewall is walled: the kernel follows no connections on a bridge, so frames from guest to guest are
 * turned to the router by their destination's MAC, which needs nothing of the guests and works at once both ways.
 */
import { CommandError, type Runner } from '#libs/drivers/host';
import { address6Number, linkLocalOf } from './addresses.js';
import { leasePortName, linkPrefix, routerPortName, tableName } from './names.js';

/** What a network has put into the sets. Kept by the caller, since the sets do not say which network an element is of. */
export interface GuardEntry {
  port: string;
  mac: string;
  ip: string;
  ip6: string | null;
  /** MAC of the router that all its packets go to; null: they go where they say. */
  wall: string | null;
}

/** The entries that a network's leases make. */
export function guardEntries(
  installation: string,
  networkId: string,
  leases: readonly { mac: string; ip: string; ip6: string | null }[],
  wall: string | null,
): GuardEntry[] {
  return leases.map(({ mac, ip, ip6 }) => ({
    port: leasePortName(installation, networkId, mac),
    mac,
    ip,
    ip6,
    wall,
  }));
}

/** The target of a neighbour advertisement or solicitation, RFC 4861 §4.3 and §4.4: 16 bytes after the first 8. */
const target = '@th,64,128';
const neighbours = 'icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert }';

function rules(installation: string): string[] {
  const t = `bridge ${tableName(installation)}`;
  const guests = `"${linkPrefix('t', installation)}*"`;
  const routers = `"${linkPrefix('g', installation)}*"`;
  const guest = (rule: string) => `add rule ${t} guest ${rule}`;
  const chains = ['prerouting', 'onward', 'local', 'guest', 'pass'];
  return [
    `add table ${t}`,
    `add set ${t} routers { type ifname; }`,
    `add set ${t} macs { type ifname . ether_addr; }`,
    `add set ${t} addresses { type ifname . ether_addr . ipv4_addr; }`,
    `add set ${t} addresses6 { type ifname . ether_addr . ipv6_addr; }`,
    `add set ${t} targets6 { typeof iifname . ether saddr . ${target}; }`,
    `add set ${t} walled { type ifname; }`,
    `add map ${t} walls { type ifname : ether_addr; }`,
    `add chain ${t} prerouting { type filter hook prerouting priority -200; policy accept; }`,
    `add chain ${t} onward { type filter hook forward priority -200; policy accept; }`,
    `add chain ${t} local { type filter hook input priority -200; policy accept; }`,
    `add chain ${t} guest`,
    `add chain ${t} pass`,
    ...chains.map((chain) => `flush chain ${t} ${chain}`),
    guest('iifname . ether saddr != @macs drop'),
    guest('ether type ip udp sport 67 drop'),
    guest('ether type ip iifname . ether saddr . ip saddr @addresses goto pass'),
    guest('ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept'),
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
    `add rule ${t} pass ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 ether daddr set iifname map @walls`,
    `add rule ${t} pass accept`,
    `add rule ${t} prerouting iifname @routers accept`,
    `add rule ${t} prerouting iifname ${routers} drop`,
    `add rule ${t} prerouting iifname ${guests} goto guest`,
    // What a walled guest sends to all reaches the router only.
    `add rule ${t} onward iifname @walled oifname ${guests} ether type ip6 ${neighbours} accept`,
    `add rule ${t} onward iifname @walled oifname ${guests} ether type { ip, ip6 } counter drop`,
    `add rule ${t} local iifname { ${guests}, ${routers} } drop`,
  ];
}

function elements(installation: string, verb: 'add' | 'delete', entries: readonly GuardEntry[]): string[] {
  const t = `bridge ${tableName(installation)}`;
  const both = entries.flatMap(({ port, mac, ip6 }) =>
    (ip6 ? [linkLocalOf(mac), ip6] : []).map((ip) => [port, mac, ip]),
  );
  const walled = entries.filter(({ wall }) => wall !== null);
  const sets: Record<string, string[]> = {
    macs: entries.map(({ port, mac }) => `"${port}" . ${mac}`),
    addresses: entries.map(({ port, mac, ip }) => `"${port}" . ${mac} . ${ip}`),
    addresses6: both.map(([port, mac, ip]) => `"${port}" . ${mac} . ${ip}`),
    targets6: both.map(([port, mac, ip]) => `"${port}" . ${mac} . 0x${address6Number(ip, 'ip').toString(16)}`),
    walled: walled.map(({ port }) => `"${port}"`),
    walls: walled.map(({ port, wall }) => `"${port}" : ${wall}`),
  };
  return Object.entries(sets)
    .filter(([, values]) => values.length > 0)
    .map(([set, values]) => `${verb} element ${t} ${set} { ${values.join(', ')} }`);
}

/** Lets exactly `entries` of a network pass, and takes `stale` ones away, in one transaction. */
export async function applyGuard(
  runner: Runner,
  installation: string,
  networkId: string,
  stale: readonly GuardEntry[],
  entries: readonly GuardEntry[],
): Promise<void> {
  const router = `add element bridge ${tableName(installation)} routers { "${routerPortName(installation, networkId)}" }`;
  await nft(runner, [
    ...rules(installation),
    router,
    // Adding before deleting makes deleting what is not there no error.
    ...elements(installation, 'add', stale),
    ...elements(installation, 'delete', stale),
    ...elements(installation, 'add', entries),
  ]);
}

/** Undo of applyGuard. `last`: no network is left, so the table goes too. */
export async function removeGuard(
  runner: Runner,
  installation: string,
  networkId: string,
  stale: readonly GuardEntry[],
  last: boolean,
): Promise<void> {
  const t = `bridge ${tableName(installation)}`;
  if (last) return nft(runner, [`add table ${t}`, `delete table ${t}`]);
  const port = routerPortName(installation, networkId);
  await nft(runner, [
    ...rules(installation),
    `add element ${t} routers { "${port}" }`,
    `delete element ${t} routers { "${port}" }`,
    ...elements(installation, 'add', stale),
    ...elements(installation, 'delete', stale),
  ]);
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
