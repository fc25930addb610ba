/**
 * What each node is told of a network. Where it is on one node, that is what its placement has. Where it spans several, all of
 * them are told of every machine, and to write that for each node would be work that grows with nodes times machines: then
 * placements only have a digest, which changes whenever a spec does, and the spec is composed when it is sent.
 */
import { createHash } from 'node:crypto';
import type { Database } from '#libs/db';
import type { NetworkSpec } from '#libs/drivers/contract';
import type { Composed } from '#libs/resources';
import { type Known, readNetworkNow } from './known-network.js';
import { noParts, partFields } from './part-specs.js';
import {
  leasesFor,
  membersText,
  partOf,
  type Span,
  type Standing,
  spanOf,
  standingAsTold,
  standsAlone,
} from './spanning.js';

/** The gateway's MAC follows from the network's id, so that a router can move to another node unnoticed. */
export function gatewayMacOf(networkId: string): string {
  const bytes = createHash('sha256').update(`gateway/${networkId}`).digest().subarray(0, 6);
  bytes[0] = (bytes[0]! & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** What leads to guests and all that a router has only where that is. */
function specOf(id: string, node: Standing, span: Span, known: Known): NetworkSpec {
  const {
    generation: _generation,
    door,
    parts,
    leases,
    vni,
    routerId: _routerId,
    toldMembers: _told,
    standing: _standing,
    ...fields
  } = known;
  const part = partOf(node, span, { vni, walled: isWalled(parts) });
  const doorHere = span.routerId === node.nodeId ? door : null;
  return {
    ...fields,
    gatewayMac: gatewayMacOf(id),
    leases: leasesFor(part, leases),
    ...(part.isRouter ? partFields(parts, leases, doorHere, part.served) : noParts),
    overlay: part.overlay,
  };
}

function isWalled(parts: Known['parts']): boolean {
  return parts.some(({ spec }) => spec.kind === 'firewallRule');
}

/** As a placement has it. Throws RhyzomeError `limit_reached` where the router would be told too much. */
export function placedSpecs(id: string, standing: readonly Standing[], span: Span, known: Known): Map<string, object> {
  const members = digestOf(membersPart(known, span));
  return new Map<string, object>(
    standing.map((node) => {
      if (standsAlone(node, span)) return [node.nodeId, specOf(id, node, span, known)];
      const isRouter = node.nodeId === span.routerId;
      const composed = isRouter ? digestOf(specOf(id, node, span, known)) : members;
      return [node.nodeId, { composed } satisfies Composed];
    }),
  );
}

/** All that nodes without the router are told, whichever they are. */
function membersPart(known: Known, span: Span): object {
  const { door: _door, parts, leases, toldMembers: _told, standing: _standing, ...rest } = known;
  const places = leases.flatMap(({ ip, mac, ip6, nodeId, instanceId }) =>
    instanceId === null ? [] : [[ip, mac, ip6, nodeId]],
  );
  return { ...rest, routerId: span.routerId, members: membersText(span), walled: isWalled(parts), places };
}

function digestOf(value: object): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('base64url').slice(0, 22);
}

/**
 * The specs that these nodes are told, by the rows as they are now, and by its nodes as they were told last; a node that it
 * does not stand on has none.
 */
export async function composeSpecs(
  db: Database,
  tenantId: string,
  id: string,
  nodeIds: readonly string[],
): Promise<Map<string, object>> {
  const known = await readNetworkNow(db, tenantId, id);
  if (!known) return new Map();
  const { toldMembers, routerId } = known;
  const standing = toldMembers === null ? known.standing : standingAsTold(known.standing, toldMembers);
  const span = spanOf(standing, routerId);
  const asked = standing.filter(({ nodeId }) => nodeIds.includes(nodeId));
  return new Map(asked.map((node) => [node.nodeId, specOf(id, node, span, known)]));
}
