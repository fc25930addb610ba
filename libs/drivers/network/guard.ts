/**
 * What guests may send: nftables in the bridge family. From a lease's port only its MAC, and with it only its address
 * in IPv4 and ARP (and DHCP's requests before it has one); no DHCP server, no IPv6, no VLAN tags, nothing from a port
 * that has no lease, and nothing at all to this machine's own stack. One table an installation, static rules over three
 * sets, so that a frame costs the same however many networks there are.
 */
import { CommandError, type Runner } from '#libs/drivers/host';
import { leasePortName, linkPrefix, routerPortName, tableName } from './names.js';

/** What a network has put into the sets. Kept by the caller, since the sets do not say which network an element is of. */
export interface GuardEntry {
  port: string;
  mac: string;
  ip: string;
}

/** The entries that a network's leases make. */
export function guardEntries(
  installation: string,
  networkId: string,
  leases: readonly { mac: string; ip: string }[],
): GuardEntry[] {
  return leases.map(({ mac, ip }) => ({ port: leasePortName(installation, networkId, mac), mac, ip }));
}

function rules(installation: string): string[] {
  const t = `bridge ${tableName(installation)}`;
  const guests = `"${linkPrefix('t', installation)}*"`;
  const routers = `"${linkPrefix('g', installation)}*"`;
  const guest = (rule: string) => `add rule ${t} guest ${rule}`;
  return [
    `add table ${t}`,
    `add set ${t} routers { type ifname; }`,
    `add set ${t} macs { type ifname . ether_addr; }`,
    `add set ${t} addresses { type ifname . ether_addr . ipv4_addr; }`,
    `add chain ${t} prerouting { type filter hook prerouting priority -200; policy accept; }`,
    `add chain ${t} local { type filter hook input priority -200; policy accept; }`,
    `add chain ${t} guest`,
    `flush chain ${t} prerouting`,
    `flush chain ${t} local`,
    `flush chain ${t} guest`,
    guest('iifname . ether saddr != @macs drop'),
    guest('ether type ip udp sport 67 drop'),
    guest('ether type ip iifname . ether saddr . ip saddr @addresses accept'),
    guest('ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept'),
    guest('ether type arp iifname . arp saddr ether . arp saddr ip @addresses accept'),
    guest('ether type arp arp operation request iifname . arp saddr ether @macs arp saddr ip 0.0.0.0 accept'),
    guest('drop'),
    `add rule ${t} prerouting iifname @routers accept`,
    `add rule ${t} prerouting iifname ${routers} drop`,
    `add rule ${t} prerouting iifname ${guests} goto guest`,
    `add rule ${t} local iifname { ${guests}, ${routers} } drop`,
  ];
}

function elements(installation: string, verb: 'add' | 'delete', entries: readonly GuardEntry[]): string[] {
  if (entries.length === 0) return [];
  const t = `bridge ${tableName(installation)}`;
  const macs = entries.map(({ port, mac }) => `"${port}" . ${mac}`);
  const addresses = entries.map(({ port, mac, ip }) => `"${port}" . ${mac} . ${ip}`);
  return [
    `${verb} element ${t} macs { ${macs.join(', ')} }`,
    `${verb} element ${t} addresses { ${addresses.join(', ')} }`,
  ];
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
