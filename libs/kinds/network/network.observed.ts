/** What a node's report makes of a network: where its VPN door is. */
import { sql } from 'kysely';
import type { Tx } from '#libs/db';
import type { FollowUp, PlacementReport } from '#libs/resources';

const endpointShape = /^[0-9A-Za-z.:[\]-]{1,255}:[0-9]{1,5}$/;

export async function observed(tx: Tx, tenantId: string, report: PlacementReport): Promise<FollowUp | void> {
  const { resourceId: id } = report;
  const hasMoved = await keepEndpoint(tx, tenantId, report);
  // Peers are locked before their network elsewhere, too: nothing of theirs is locked while the network is.
  return hasMoved ? (after) => touchPeers(after, tenantId, id) : undefined;
}

/** Only the node with the router says where the door is, and only where there is one. */
export function disregards(status: PlacementReport['status']): boolean {
  return status?.wireguardEndpoint === undefined;
}

/** True if the door is elsewhere than before. */
async function keepEndpoint(
  tx: Tx,
  tenantId: string,
  { resourceId, nodeId, phase, status }: PlacementReport,
): Promise<boolean> {
  const endpoint = status?.wireguardEndpoint;
  if (phase !== 'ready' || typeof endpoint !== 'string' || !endpointShape.test(endpoint)) return false;
  const changed = await sql`
    update wireguard_door set endpoint = ${endpoint}
    where tenant_id = ${tenantId} and network_id = ${resourceId} and endpoint is distinct from ${endpoint}
      -- A node that had the router before may still say so.
      and exists (select from network n where n.tenant_id = ${tenantId} and n.id = ${resourceId}
        and coalesce(n.router_node_id, ${nodeId}) = ${nodeId})
    returning port`.execute(tx);
  return changed.rows.length > 0;
}

/** Its peers show the endpoint: a change of it is a change of them. */
async function touchPeers(tx: Tx, tenantId: string, networkId: string): Promise<void> {
  await sql`
    with peer as (
      select r.id from resource r join network_part p on p.tenant_id = r.tenant_id and p.resource_id = r.id
      where p.tenant_id = ${tenantId} and p.network_id = ${networkId} and p.kind = 'wireguardPeer'
      order by r.id for no key update of r)
    update resource set updated_at = now() where tenant_id = ${tenantId} and id in (select id from peer)`.execute(tx);
}
