/**
 * Which of a network's nodes are one with each other, and which of them has its router. A node is a member where its
 * underlay carries the network, and not once it is fenced. Others stand alone, with a router of their own. Computes only.
 */
import type { NetworkSpec, OverlaySpec } from '#libs/drivers/contract';

/** A node that a network stands on, in the order in which it came. */
export interface Standing {
  nodeId: string;
  /** Its underlay; null: it has none that carries the network. */
  address: string | null;
  port: number | null;
  state: string;
}

export interface Span {
  members: readonly Standing[];
  /** Null: the network is on no node. */
  routerId: string | null;
}

/** `current`: the node that has the router so far. `wanted`: the one that is to have it. */
export function spanOf(standing: readonly Standing[], current: string | null, wanted?: string): Span {
  const members = standing.filter(({ address, state }) => address !== null && state !== 'gone');
  const able = members.length > 0 ? members : standing;
  const by = (id: string | null | undefined) => able.find(({ nodeId }) => nodeId === id);
  const chosen = by(wanted) ?? by(current) ?? able.find(({ state }) => state === 'up') ?? able[0];
  return { members, routerId: chosen?.nodeId ?? null };
}

/** As network_members() of the database has them: told otherwise, nodes are told anew. */
export function membersText({ members }: Span): string {
  return members.map(memberText).sort().join(' ');
}

const memberText = ({ nodeId, address, port }: Standing) => `${nodeId}@${address}:${port}`;

/**
 * The nodes as they were when they were told last (`membersText`): what is sent between two tellings is what was decided, and
 * not what a node's state or underlay has become since, which nobody else has been told.
 */
export function standingAsTold(standing: readonly Standing[], toldMembers: string): Standing[] {
  const told = new Map(toldMembers.split(' ').map((text) => [text.split('@')[0], text] as const));
  return standing.map((node) => {
    const [, place = ''] = told.get(node.nodeId)?.split('@') ?? [];
    const [address, port] = place.split(':');
    if (!address) return { ...node, state: 'gone' };
    return { ...node, address, port: Number(port), state: node.state === 'gone' ? 'unreachable' : node.state };
  });
}

export interface Part {
  /** Null: the network does not go beyond this node. */
  overlay: OverlaySpec | null;
  isRouter: boolean;
  /** The nodes whose guests its router leads to. */
  served: ReadonlySet<string>;
  /** Of each of the others its place in the overlay's list. */
  indexOf: ReadonlyMap<string, number>;
}

/** Whether the network does not go beyond this node. */
export function standsAlone(node: Standing, { members }: Span): boolean {
  return node.address === null || members.every(({ nodeId }) => nodeId === node.nodeId);
}

/** What one node's part is. */
export function partOf(node: Standing, span: Span, known: { vni: number; walled: boolean }): Part {
  const { members, routerId } = span;
  const alone: Part = { overlay: null, isRouter: true, served: new Set([node.nodeId]), indexOf: new Map() };
  const others = members.filter(({ nodeId }) => nodeId !== node.nodeId);
  if (standsAlone(node, span)) return alone;
  // One that is fenced is told of the others, too, so that it gives up a router; they know nothing of it.
  const indexOf = new Map(others.map(({ nodeId }, index) => [nodeId, index]));
  const overlay: OverlaySpec = {
    ...known,
    address: node.address!,
    port: node.port!,
    nodes: others.map(({ address, port }) => ({ address: address!, port: port! })),
    router: routerId === null ? null : (indexOf.get(routerId) ?? null),
  };
  const isRouter = overlay.router === null;
  return { overlay, isRouter, served: new Set(members.map(({ nodeId }) => nodeId)), indexOf };
}

interface Lease {
  ip: string;
  mac: string;
  hostname: string | null;
  ip6: string | null;
  instanceId: string | null;
  nodeId: string | null;
}

/** What a node has to know of leases: without the router no names, and only what a machine has. */
export function leasesFor({ isRouter, indexOf }: Part, leases: readonly Lease[]): NetworkSpec['leases'] {
  const told = isRouter ? leases : leases.filter(({ instanceId }) => instanceId !== null);
  return told.map(({ ip, mac, hostname, ip6, nodeId }) => {
    const lease = { ip, mac, hostname: isRouter ? hostname : null, ip6 };
    const node = nodeId === null ? undefined : indexOf.get(nodeId);
    return node === undefined ? lease : { ...lease, node };
  });
}
