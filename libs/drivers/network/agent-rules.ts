/**
 * The agent's own table of rules: guests go out by the uplink and nowhere else, not to this machine, not to denied
 * ranges, not to each other's routers; public addresses and the ports of VPN doors lead in. Static rules over one set
 * and one map, whose elements networks bring and take away.
 */
import type { Runner } from '#libs/drivers/host';
import { checkRange, disjoint } from './addresses.js';
import { nft } from './guard.js';
import { linkPrefix, tableName } from './names.js';
import { type Gate, gateElements, gatePorts, gateRules } from './overlay-gate.js';
import { pool, type Uplink } from './uplink.js';

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

/** What a network has of the outside: its public addresses, and the port at which its VPN door is reached. */
export interface Opening {
  addresses: string[];
  door: { port: number; inner: string } | null;
}

export const noOpening: Opening = { addresses: [], door: null };

/** Without an uplink the table only keeps bridged frames out of connection tracking. */
function rules(installation: string, uplink: Uplink | undefined): string[] {
  const name = tableName(installation);
  const t = `ip ${name}`;
  const bridges = `iifname "${linkPrefix('b', installation)}*"`;
  const lines: string[] = [];
  // Where bridged frames pass this hook (br_netfilter), equal addresses of two tenants must not meet in one table.
  for (const table of [t, `ip6 ${name}`]) {
    lines.push(`add table ${table}`);
    lines.push(`add chain ${table} raw { type filter hook prerouting priority raw; policy accept; }`);
    lines.push(`flush chain ${table} raw`);
    lines.push(`add rule ${table} raw ${bridges} notrack`);
  }
  lines.push(...gateRules(t));
  const hooks = { input: 'filter hook input priority -10', forward: 'filter hook forward priority -10' };
  const nat = {
    prerouting: 'nat hook prerouting priority dstnat',
    postrouting: 'nat hook postrouting priority srcnat',
  };
  for (const [chain, type] of Object.entries({ ...hooks, ...nat })) {
    lines.push(`add chain ${t} ${chain} { type ${type}; policy accept; }`, `flush chain ${t} ${chain}`);
  }
  lines.push(`add set ${t} public { type ipv4_addr; }`, `add map ${t} doors { type inet_service : ipv4_addr; }`);
  if (uplink) lines.push(...uplinkRules(installation, uplink));
  return lines;
}

function uplinkRules(installation: string, uplink: Uplink): string[] {
  const t = `ip ${tableName(installation)}`;
  const from = `iifname "${linkPrefix('u', installation)}*"`;
  const to = `oifname "${linkPrefix('u', installation)}*"`;
  const out = `"${uplink.interface}"`;
  const { resolvers = [] } = uplink;
  const forward = (rule: string) => `add rule ${t} forward ${rule}`;
  const denied = [...deniedByDefault, ...(uplink.denied ?? [])].map((cidr) => checkRange(cidr, 'denied range'));
  const lines = [
    // What a guest sends is never taken for a node's word, wherever it goes.
    forward(`${from} udp dport @${gatePorts} counter drop`),
    `add rule ${t} prerouting iifname ${out} fib daddr type local dnat to udp dport map @doors`,
    `add rule ${t} input ${from} drop`,
    // Answers go wherever the question came from, which guests cannot choose.
    forward(`${from} ct direction reply ct state established,related accept`),
    forward(`${from} ${to} ip daddr @public accept`),
    forward(`${to} ct state established,related accept`),
    forward(`${to} iifname ${out} ip daddr @public accept`),
    forward(`${to} iifname ${out} meta l4proto udp ct status dnat accept`),
    forward(`${to} drop`),
    forward(`${from} oifname != ${out} drop`),
  ];
  if (resolvers.length > 0) {
    const servers = `ip daddr { ${resolvers.join(', ')} }`;
    lines.push(forward(`${from} ${servers} udp dport 53 accept`), forward(`${from} ${servers} tcp dport 53 accept`));
  }
  const ranges = `ip daddr { ${disjoint(denied, 4).join(', ')} }`;
  lines.push(
    forward(`${from} ${ranges} reject with icmp admin-prohibited`),
    `add rule ${t} postrouting ip saddr ${pool.cidr} oifname ${out} masquerade`,
  );
  return lines;
}

function elements(installation: string, verb: 'add' | 'delete', { addresses, door }: Opening): string[] {
  const t = `ip ${tableName(installation)}`;
  const lines: string[] = [];
  if (addresses.length > 0) lines.push(`${verb} element ${t} public { ${addresses.join(', ')} }`);
  if (door) lines.push(`${verb} element ${t} doors { ${door.port} : ${door.inner} }`);
  return lines;
}

/** The table with a network's opening in it, and without what is `stale` of it, in one transaction. */
export async function applyAgentRules(
  runner: Runner,
  installation: string,
  uplink: Uplink | undefined,
  stale: Opening = noOpening,
  opening: Opening = noOpening,
): Promise<void> {
  await nft(runner, [
    ...rules(installation, uplink),
    // Adding before deleting makes deleting what is not there no error.
    ...elements(installation, 'add', stale),
    ...elements(installation, 'delete', stale),
    ...elements(installation, 'add', opening),
  ]);
}

/** The table with a network's gates for other nodes in it, and without those that are `stale`, in one transaction. */
export async function applyGates(
  runner: Runner,
  installation: string,
  uplink: Uplink | undefined,
  stale: readonly Gate[],
  gates: readonly Gate[],
): Promise<void> {
  const t = `ip ${tableName(installation)}`;
  await nft(runner, [
    ...rules(installation, uplink),
    ...gateElements(t, 'add', stale),
    ...gateElements(t, 'delete', stale),
    ...gateElements(t, 'add', gates),
  ]);
}

/** Undo of applyAgentRules. */
export async function removeAgentRules(runner: Runner, installation: string): Promise<void> {
  const name = tableName(installation);
  const tables = [`ip ${name}`, `ip6 ${name}`];
  await nft(
    runner,
    tables.flatMap((table) => [`add table ${table}`, `delete table ${table}`]),
  );
}
