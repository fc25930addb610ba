/**
 * A network on the nodes: it stands wherever an instance that uses it is placed, and leaves with the last one. What is
 * desired there always follows from the rows as they are in the caller's transaction.
 */
import { createHash } from 'node:crypto';
import { sql } from 'kysely';
import type { Tx } from '#libs/db';
import type { NetworkSpec } from '#libs/drivers/contract';
import { desire, withdraw } from '#libs/nodes';

const KIND = 'network';

/** The gateway's MAC follows from the network's id, so that a router can move to another node unnoticed. */
export function gatewayMacOf(networkId: string): string {
  const bytes = createHash('sha256').update(`gateway/${networkId}`).digest().subarray(0, 6);
  bytes[0] = (bytes[0]! & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

/** What a node is told of a network: all of it, with its leases. Locks the network, so that the last writer is right. */
async function specOf(tx: Tx, tenantId: string, id: string): Promise<{ spec: NetworkSpec; generation: number } | null> {
  const result = await sql<{
    subnet: string;
    gateway: string;
    dns: string[];
    domain: string | null;
    mtu: number;
    generation: number;
  }>`
    select k.subnet, host(k.gateway) as gateway, k.dns, k.domain, k.mtu, r.generation
    from resource r join network k on k.tenant_id = r.tenant_id and k.id = r.id
    where r.tenant_id = ${tenantId} and r.id = ${id} for no key update`.execute(tx);
  const row = result.rows[0];
  if (!row) return null;
  const leases = await sql<{ ip: string; mac: string; hostname: string | null }>`
    select host(ip) as ip, mac, hostname from lease
    where tenant_id = ${tenantId} and network_id = ${id} order by ip`.execute(tx);
  const { generation, ...fields } = row;
  return { generation, spec: { ...fields, gatewayMac: gatewayMacOf(id), leases: leases.rows } };
}

/** Lets networks stand on a node. */
export async function placeNetworks(tx: Tx, tenantId: string, nodeId: string, ids: readonly string[]): Promise<void> {
  for (const id of [...new Set(ids)].sort()) {
    const known = await specOf(tx, tenantId, id);
    if (known) await desire(tx, { tenantId, id, kind: KIND }, nodeId, known);
  }
}

/** Tells every node that has the network what it is now. */
export async function refreshNetwork(tx: Tx, tenantId: string, id: string): Promise<void> {
  const placed = await tx
    .selectFrom('placement')
    .select('node_id')
    .where('tenant_id', '=', tenantId)
    .where('resource_id', '=', id)
    .where('present', '=', true)
    .execute();
  if (placed.length === 0) return;
  const known = await specOf(tx, tenantId, id);
  if (!known) return;
  for (const { node_id } of placed) await desire(tx, { tenantId, id, kind: KIND }, node_id, known);
}

/** The same of several, each once, locked in the order of their ids. */
export async function refreshNetworks(tx: Tx, tenantId: string, ids: readonly string[]): Promise<void> {
  for (const id of [...new Set(ids)].sort()) await refreshNetwork(tx, tenantId, id);
}

/** Takes networks from a node where no instance but `exceptInstance` uses them any more. */
export async function leaveNode(
  tx: Tx,
  tenantId: string,
  nodeId: string,
  ids: readonly string[],
  exceptInstance: string,
): Promise<void> {
  for (const id of [...new Set(ids)].sort()) {
    await specOf(tx, tenantId, id);
    const used = await sql`
      select 1 from lease l
      join placement p on p.tenant_id = l.tenant_id and p.resource_id = l.instance_id and p.node_id = ${nodeId} and p.present
      where l.tenant_id = ${tenantId} and l.network_id = ${id} and l.instance_id <> ${exceptInstance} limit 1`.execute(
      tx,
    );
    if (used.rows.length === 0) await withdraw(tx, { tenantId, id }, nodeId);
  }
}
