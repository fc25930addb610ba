/**
 * A network's firewall as nftables chains of its router. The rules stand there twice: as the first packet of a
 * connection meets them, and turned round, for answers. So a connection that was let through under older rules is asked
 * again under the new ones, whoever of the two speaks first, and then carries the rules' mark.
 */
import { createHash } from 'node:crypto';
import type { FirewallRuleSpec } from '#libs/drivers/contract';
import { checkRange, disjoint } from './addresses.js';

/** What connections carry that these rules have let through: never 0, which is what a new one has. */
export function markOf(rules: readonly FirewallRuleSpec[]): number {
  return createHash('sha256').update(JSON.stringify(rules)).digest().readUInt32BE(0) || 1;
}

interface Way {
  chain: (direction: 'in' | 'out') => string;
  source: string;
  destination: string;
  port: string;
}

const forth: Way = {
  chain: (direction) => (direction === 'in' ? 'inward' : 'outward'),
  source: 'saddr',
  destination: 'daddr',
  port: 'dport',
};
const back: Way = {
  chain: (direction) => (direction === 'in' ? 'inward_back' : 'outward_back'),
  source: 'daddr',
  destination: 'saddr',
  port: 'sport',
};

/** Names of the chains that firewallRules fills: jump there with packets from (`out`) and to (`in`) a guest. */
export const firewallChains = { forth: forth.chain, back: back.chain };

/** Lines that make and fill the chains in table `t`. What may pass returns, what may not is dropped and counted. */
export function firewallRules(t: string, rules: readonly FirewallRuleSpec[]): string[] {
  const lines: string[] = [];
  for (const way of [forth, back]) {
    for (const direction of ['in', 'out'] as const) {
      const chain = way.chain(direction);
      lines.push(`add chain ${t} ${chain}`);
      const own = rules.filter((rule) => rule.direction === direction);
      for (const rule of own) for (const text of ruleLines(rule, way)) lines.push(`add rule ${t} ${chain} ${text}`);
      if (direction === 'in') lines.push(...guarded(own, way).map((text) => `add rule ${t} ${chain} ${text}`));
    }
  }
  return lines;
}

/** Guests that something is explicitly allowed to reach are reached by nothing else. */
function guarded(rules: readonly FirewallRuleSpec[], way: Way): string[] {
  const allowed = rules.filter(({ action }) => action === 'allow');
  if (allowed.some(({ guests }) => guests === null)) return ['counter drop'];
  const all = allowed.flatMap(({ guests }) => guests ?? []);
  return matches(all, way.destination).map((match) => `${match} counter drop`);
}

/** One line for each family that the rule can be about. */
function ruleLines(rule: FirewallRuleSpec, way: Way): string[] {
  const { direction, action, remotes, guests } = rule;
  const [own, other] = direction === 'in' ? [way.destination, way.source] : [way.source, way.destination];
  const verdict = `counter ${action === 'allow' ? 'return' : 'drop'} comment "${rule.id}"`;
  const lines: string[] = [];
  for (const family of [4, 6] as const) {
    const words = [guests && match(guests, family, own), remotes && match(remotes, family, other)];
    // Named, but nobody of this family: it is not about this family.
    if (words.includes('')) continue;
    const named = words.filter((word) => word !== null);
    const of = named.length > 0 ? named : [`meta nfproto ipv${family}`];
    lines.push([...of, ...protocol(rule, family, way.port), verdict].join(' '));
  }
  return lines;
}

function protocol({ protocol, ports }: FirewallRuleSpec, family: 4 | 6, side: string): string[] {
  if (protocol === 'any') return [];
  if (protocol === 'icmp') return [`meta l4proto ${family === 4 ? 'icmp' : 'ipv6-icmp'}`];
  if (ports.length === 0) return [`meta l4proto ${protocol}`];
  return [`${protocol} ${side} { ${joined(ports).join(', ')} }`];
}

/** Ports in ranges that do not overlap, which a set refuses. */
function joined(ports: readonly { from: number; to: number }[]): string[] {
  const merged: { from: number; to: number }[] = [];
  for (const { from, to } of [...ports].sort((a, b) => a.from - b.from)) {
    const before = merged.at(-1);
    if (before && from <= before.to + 1) before.to = Math.max(before.to, to);
    else merged.push({ from, to });
  }
  return merged.map(({ from, to }) => (from === to ? String(from) : `${from}-${to}`));
}

function matches(addresses: readonly string[], side: string): string[] {
  return ([4, 6] as const).map((family) => match(addresses, family, side)).filter((text) => text !== '');
}

/** Empty when none of them is of this family. */
function match(addresses: readonly string[], family: 4 | 6, side: string): string {
  const ranges = disjoint(
    addresses.map((address) => checkRange(address, 'firewall address')),
    family,
  );
  return ranges.length === 0 ? '' : `${family === 4 ? 'ip' : 'ip6'} ${side} { ${ranges.join(', ')} }`;
}
