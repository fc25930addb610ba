/**
 * What other kinds add to a network's router, and what nodes are told of it: guests and selectors become the addresses that
 * they have at that moment. Computes only.
 */
import { parseSelector, RhyzomeError, selects, type Tags } from '#libs/core';
import type { FirewallRuleSpec, NetworkSpec, WireguardSpec } from '#libs/drivers/contract';

/** Guests are named by the id of their instance. */
export type PartSpec =
  | { kind: 'publicAddress'; publicIp: string; instance: string }
  | {
      kind: 'forward';
      publicIp: string;
      protocol: 'tcp' | 'udp';
      port: number;
      instance: string;
      targetPort: number;
    }
  | ({
      kind: 'firewallRule';
      /** Null: anybody. At most one of the two is set. */
      remoteCidrs: string[] | null;
      remoteTags: string | null;
      /** Null: all of the network. */
      targetTags: string | null;
    } & Pick<FirewallRuleSpec, 'direction' | 'action' | 'protocol' | 'ports'>)
  | { kind: 'wireguardPeer'; publicKey: string; presharedKey: string | null; allowedIps: string[] };

export interface Part {
  resourceId: string;
  spec: PartSpec;
}

/** A lease as parts see it. */
export interface Guest {
  instanceId: string | null;
  ip: string;
  ip6: string | null;
  /** Where its instance is; null: nowhere, or it has none. */
  nodeId: string | null;
  /** Of its instance. */
  tags: Tags;
}

export interface Door {
  privateKey: string;
  port: number;
}

export type PartFields = Pick<NetworkSpec, 'publicAddresses' | 'forwards' | 'firewall' | 'wireguard'>;

/**
 * Selectors of all rules together name at most so many addresses: nodes are told a network in one message (libs/rpc limits
 * it), and a rule for everybody needs no list.
 */
export const MAX_RULE_ADDRESSES = 20_000;

/** What a node without the network's router is told. */
export const noParts: PartFields = { publicAddresses: [], forwards: [], firewall: [], wireguard: null };

/**
 * What a router's node is told. `served`: the nodes whose guests it leads to. Guests by their interfaces' order, parts in
 * theirs; without the door no peers. Throws RhyzomeError `limit_reached`.
 */
export function partFields(
  parts: readonly Part[],
  guests: readonly Guest[],
  door: Door | null,
  served: ReadonlySet<string>,
): PartFields {
  const addresses = new Map<string, string>();
  for (const guest of guests) {
    const { instanceId, ip, nodeId } = guest;
    if (instanceId === null || nodeId === null || addresses.has(instanceId)) continue;
    if (served.has(nodeId)) addresses.set(instanceId, ip);
  }
  const fields: PartFields = { publicAddresses: [], forwards: [], firewall: [], wireguard: null };
  const peers: WireguardSpec['peers'] = [];
  for (const { resourceId, spec } of parts) {
    if (spec.kind === 'wireguardPeer') {
      const { publicKey, presharedKey, allowedIps } = spec;
      peers.push({ publicKey, presharedKey, allowedIps });
    } else if (spec.kind === 'firewallRule') fields.firewall.push(...ruleFor(resourceId, spec, guests));
    else {
      // Without a machine that it serves there is nowhere to lead to.
      const ip = addresses.get(spec.instance);
      if (ip === undefined) continue;
      const { publicIp } = spec;
      if (spec.kind === 'publicAddress') fields.publicAddresses.push({ publicIp, ip });
      else
        fields.forwards.push({ publicIp, protocol: spec.protocol, port: spec.port, ip, targetPort: spec.targetPort });
    }
  }
  refuseTooManyAddresses(fields.firewall);
  if (door && peers.length > 0) fields.wireguard = { ...door, address: `${doorAddress(door.port)}/24`, peers };
  return fields;
}

/** A rule about nobody is left out; one whose other side is nobody stays, since being there changes what else may pass. */
function ruleFor(
  id: string,
  spec: Extract<PartSpec, { kind: 'firewallRule' }>,
  guests: readonly Guest[],
): FirewallRuleSpec[] {
  const { direction, action, protocol, ports, remoteCidrs, remoteTags, targetTags } = spec;
  const chosen = targetTags === null ? null : addressesOf(targetTags, guests);
  if (chosen?.length === 0) return [];
  const remotes = remoteTags === null ? remoteCidrs : addressesOf(remoteTags, guests);
  return [{ id, direction, action, protocol, ports, remotes, guests: chosen }];
}

function addressesOf(selector: string, guests: readonly Guest[]): string[] {
  const terms = parseSelector(selector);
  return guests
    .filter(({ instanceId, tags }) => instanceId !== null && selects(terms, tags))
    .flatMap(({ ip, ip6 }) => (ip6 === null ? [ip] : [ip, ip6]));
}

function refuseTooManyAddresses(rules: readonly FirewallRuleSpec[]): void {
  const named = rules.reduce((sum, { remotes, guests }) => sum + (remotes?.length ?? 0) + (guests?.length ?? 0), 0);
  if (named <= MAX_RULE_ADDRESSES) return;
  throw new RhyzomeError(
    'limit_reached',
    `The network’s firewall rules select ${named} addresses, and ${MAX_RULE_ADDRESSES} is the limit; ` +
      'name everybody by leaving the selector out, or a CIDR.',
  );
}

/** Where doors begin: their number follows from their port. */
export const FIRST_DOOR_PORT = 16_384;
/** 198.18.0.0/15 is nobody's (RFC 2544, RFC 6890) and apart from tenants' subnets: 512 tunnels of a /24 each. */
const TUNNELS = 512;

/** The router's address in the tunnel; the tunnel is its /24. */
export function doorAddress(port: number): string {
  const number = (port - FIRST_DOOR_PORT) % TUNNELS;
  return `198.${18 + (number >> 8)}.${number & 255}.1`;
}
