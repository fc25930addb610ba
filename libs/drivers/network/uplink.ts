/**
 * The way out: a pair of ends between a network's router and the agent's namespace with two addresses of a private
 * pool, and the agent's own table that lets guests go out by one interface and nowhere else: not to this machine, not
 * to denied ranges, not to each other's routers.
 */
import { createHash } from 'node:crypto';
import type { Runner } from '#libs/drivers/host';
import { nft } from './guard.js';
import { deleteLink, findLink, ipBatch, type Link } from './links.js';
import { linkPrefix, namespaceName, tableName, uplinkName } from './names.js';
import { addressNumber, addressText, checkCidr } from './network-spec.js';
import { wan } from './router.js';

export interface Uplink {
  /** Interface in the agent's namespace by which guests go out. */
  interface: string;
  /** Resolvers that routers may ask, also where they lie in a denied range. */
  resolvers?: readonly string[];
  /** CIDRs that guests never reach through it, beside deniedByDefault. */
  denied?: readonly string[];
}

/** Private, shared, link-local and group ranges: where nodes and control planes live. */
export const deniedByDefault: readonly string[] = [
  '10.0.0.0/8',
  '172.16.0.0/12',
  '192.168.0.0/16',
  '100.64.0.0/10',
  '169.254.0.0/16',
  '127.0.0.0/8',
  '224.0.0.0/4',
  '240.0.0.0/4',
];

/** RFC 6598; two addresses a network. */
const pool = { cidr: '100.64.0.0/10', first: addressNumber('100.64.0.0', 'pool'), slots: 2 ** 21 };

/** Throws `invalid_spec` for an interface or range that cannot stand in a rule. */
export function checkUplink(uplink: Uplink): void {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9._-]{0,14}$/.test(uplink.interface)) throw new Error('the uplink is no interface name');
  for (const cidr of uplink.denied ?? []) checkCidr(cidr, 'denied range');
  for (const server of uplink.resolvers ?? []) addressNumber(server, 'resolver');
}

/** The ranges that lie in no other: nftables takes no set in which they overlap. */
export function outermost(cidrs: readonly string[]): string[] {
  const ranges = [...new Set(cidrs)].map((cidr) => ({ cidr, ...checkCidr(cidr, 'denied range') }));
  const inside = (a: (typeof ranges)[number], b: (typeof ranges)[number]) => a.first >= b.first && a.last <= b.last;
  return ranges.filter((a) => !ranges.some((b) => a !== b && inside(a, b))).map(({ cidr }) => cidr);
}

/** The agent's table. Without an uplink it only keeps bridged frames out of connection tracking. */
function rules(installation: string, uplink: Uplink | undefined): string[] {
  const t = `ip ${tableName(installation)}`;
  const from = `iifname "${linkPrefix('u', installation)}*"`;
  const to = `oifname "${linkPrefix('u', installation)}*"`;
  const lines = [
    `add table ${t}`,
    `delete table ${t}`,
    `add table ${t}`,
    // Where bridged frames pass this hook (br_netfilter), equal addresses of two tenants must not meet in one table.
    `add chain ${t} raw { type filter hook prerouting priority raw; policy accept; }`,
    `add rule ${t} raw iifname "${linkPrefix('b', installation)}*" notrack`,
  ];
  if (!uplink) return lines;
  const out = `"${uplink.interface}"`;
  const { resolvers = [] } = uplink;
  const denied = [...deniedByDefault, ...(uplink.denied ?? [])];
  lines.push(
    `add chain ${t} input { type filter hook input priority -10; policy accept; }`,
    `add rule ${t} input ${from} drop`,
    `add chain ${t} forward { type filter hook forward priority -10; policy accept; }`,
    `add rule ${t} forward ${from} oifname != ${out} drop`,
  );
  if (resolvers.length > 0) {
    const servers = `ip daddr { ${resolvers.join(', ')} }`;
    lines.push(`add rule ${t} forward ${from} ${servers} udp dport 53 accept`);
    lines.push(`add rule ${t} forward ${from} ${servers} tcp dport 53 accept`);
  }
  const ranges = `ip daddr { ${outermost(denied).join(', ')} }`;
  lines.push(`add rule ${t} forward ${from} ${ranges} reject with icmp admin-prohibited`);
  lines.push(
    `add rule ${t} forward ${to} ct state established,related accept`,
    `add rule ${t} forward ${to} drop`,
    `add chain ${t} postrouting { type nat hook postrouting priority srcnat; policy accept; }`,
    `add rule ${t} postrouting ip saddr ${pool.cidr} oifname ${out} masquerade`,
  );
  return lines;
}

/** Replaces the agent's own table. */
export async function applyAgentRules(runner: Runner, installation: string, uplink: Uplink | undefined): Promise<void> {
  await nft(runner, rules(installation, uplink));
}

/** Undo of applyAgentRules. */
export async function removeAgentRules(runner: Runner, installation: string): Promise<void> {
  const t = `ip ${tableName(installation)}`;
  await nft(runner, [`add table ${t}`, `delete table ${t}`]);
}

/**
 * The slot of a network in the pool: the one it has, else by its id, else the next that nobody on this machine has.
 * Give the result a place on file before using it.
 */
export async function chooseSlot(runner: Runner, networkId: string, taken: ReadonlySet<number>): Promise<number> {
  const links = JSON.parse(await runner.run(['ip', '-j', '-4', 'addr', 'show'])) as Link[];
  const used = new Set(taken);
  for (const { family, local } of links.flatMap((link) => link.addr_info ?? [])) {
    if (family !== 'inet') continue;
    const slot = Math.floor((addressNumber(local, 'address') - pool.first) / 2);
    if (slot >= 0 && slot < pool.slots) used.add(slot);
  }
  const start = createHash('sha256').update(networkId).digest().readUInt32BE(0) % pool.slots;
  for (let i = 0; i < pool.slots; i++) {
    const slot = (start + i) % pool.slots;
    if (!used.has(slot)) return slot;
  }
  throw new Error(`no pair of addresses is left in ${pool.cidr}`);
}

/** Lets packets that come in by the uplink be forwarded; says first, by `note`, when that was off before. */
export async function enableForwarding(runner: Runner, link: string, note: () => Promise<void>): Promise<void> {
  const setting = `net/ipv4/conf/${link}/forwarding`;
  if ((await runner.run(['sysctl', '-n', setting])).trim() === '1') return;
  await note();
  await runner.run(['sysctl', '-q', '-w', `${setting}=1`]);
}

/** Undo of enableForwarding. An interface that is gone has nothing to undo. */
export async function disableForwarding(runner: Runner, link: string): Promise<void> {
  if (await findLink(runner, link)) await runner.run(['sysctl', '-q', '-w', `net/ipv4/conf/${link}/forwarding=0`]);
}

/** The pair of ends with its addresses, and the router's default route. */
export async function applyUplink(
  runner: Runner,
  installation: string,
  networkId: string,
  slot: number,
): Promise<void> {
  const name = uplinkName(installation, networkId);
  const namespace = namespaceName(installation, networkId);
  const outer = addressText(pool.first + 2 * slot);
  const inner = addressText(pool.first + 2 * slot + 1);
  if (!(await findLink(runner, name)) || !(await findLink(runner, wan, namespace))) {
    await deleteLink(runner, name);
    await runner.run(['ip', 'link', 'add', 'name', name, 'type', 'veth', 'peer', 'name', wan, 'netns', namespace]);
  }
  await runner.run(['sysctl', '-q', '-w', `net/ipv6/conf/${name}/disable_ipv6=1`]);
  await ipBatch(runner, [
    ['addr', 'replace', `${outer}/31`, 'dev', name],
    ['link', 'set', 'dev', name, 'up'],
  ]);
  const lines = [
    ['addr', 'replace', `${inner}/31`, 'dev', wan],
    ['link', 'set', 'dev', wan, 'up'],
    ['route', 'replace', 'default', 'via', outer, 'dev', wan],
  ];
  await ipBatch(runner, lines, namespace);
  const settings = [`net/ipv4/conf/${name}/forwarding=1`, `net/ipv4/conf/${name}/rp_filter=1`];
  await runner.run(['sysctl', '-q', '-w', ...settings]);
}

/** Undo of applyUplink; nothing there is success. */
export async function removeUplink(runner: Runner, installation: string, networkId: string): Promise<void> {
  await deleteLink(runner, uplinkName(installation, networkId));
}
