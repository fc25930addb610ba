/**
 * Whose VXLAN packets this machine takes: of each network those of the nodes that have it, by the address they come from.
 * Everything else at that port is dropped before anything looks into it. Neither way is followed as a connection.
 */
import type { OverlaySpec } from '#libs/drivers/contract';

/** What may come in for one network from one node. */
export interface Gate {
  /** The node's address. */
  from: string;
  /** Our port. */
  port: number;
  vni: number;
  /** The only link it may come by; null: any. */
  link: string | null;
}

/** Name of the set of ports that frames of other nodes come to, or ever came to since the table was made. */
export const gatePorts = 'gate_ports';

/** The VNI in VXLAN's header (RFC 7348 §5): after UDP's 8 bytes and 4 of its own. */
const vni = '@th,96,24';

export function gatesOf(overlay: OverlaySpec | null, link: string | null): Gate[] {
  return (overlay?.nodes ?? []).map(({ address }) => ({ from: address, port: overlay!.port, vni: overlay!.vni, link }));
}

/** Lines that make and fill the chains in table `t`. */
export function gateRules(t: string): string[] {
  return [
    `add set ${t} ${gatePorts} { type inet_service; }`,
    `add set ${t} gates { typeof udp dport . ip saddr . ${vni}; }`,
    `add set ${t} link_gates { typeof iifname . udp dport . ip saddr . ${vni}; }`,
    `add chain ${t} gate`,
    `flush chain ${t} gate`,
    `add rule ${t} gate udp dport . ip saddr . ${vni} @gates notrack accept`,
    `add rule ${t} gate iifname . udp dport . ip saddr . ${vni} @link_gates notrack accept`,
    `add rule ${t} gate counter drop`,
    `add rule ${t} raw fib daddr type local udp dport @${gatePorts} jump gate`,
    `add chain ${t} raw_out { type filter hook output priority raw; policy accept; }`,
    `flush chain ${t} raw_out`,
    `add rule ${t} raw_out udp dport @${gatePorts} notrack`,
  ];
}

/** Ports stay: what comes to one that no network uses any more is dropped. */
export function gateElements(t: string, verb: 'add' | 'delete', gates: readonly Gate[]): string[] {
  const lines: string[] = [];
  if (gates.length === 0) return lines;
  const ports = new Set(gates.map(({ port }) => port));
  if (verb === 'add') lines.push(`add element ${t} ${gatePorts} { ${[...ports].join(', ')} }`);
  const text = (gate: Gate) => `${gate.port} . ${gate.from} . 0x${gate.vni.toString(16)}`;
  const open = gates.filter(({ link }) => link === null).map(text);
  const byLink = gates.flatMap((gate) => (gate.link === null ? [] : `"${gate.link}" . ${text(gate)}`));
  if (open.length > 0) lines.push(`${verb} element ${t} gates { ${open.join(', ')} }`);
  if (byLink.length > 0) lines.push(`${verb} element ${t} link_gates { ${byLink.join(', ')} }`);
  return lines;
}
