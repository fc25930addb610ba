/**
 * Removals on nodes that cannot be asked: each ends at a deadline, or at once behind a fence, with a tombstone. The
 * placement's row stays as what is desired, so that a node that comes back removes the thing all the same; what it may
 * still use of others' (addresses, room) is held until then, addresses at most until the fence.
 */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';

interface Who {
  tenantId: string;
  id: string;
}

/** Ends waiting for the nodes that need not be waited for any more; the resource's name is kept for the administrators. */
export async function entomb(tx: Tx, who: Who, nodeIds: readonly string[]): Promise<void> {
  await sql`
    update placement p set tombstoned_at = now(), tombstone_name =
      (select r.name from resource r where r.tenant_id = p.tenant_id and r.id = p.resource_id)
    where p.tenant_id = ${who.tenantId} and p.resource_id = ${who.id} and p.node_id = any (${[...nodeIds]}::uuid[])
      and not p.present and p.tombstoned_at is null`.execute(tx);
}

/**
 * An administrator's word that a removal need not wait for nodes that are away, be it at these resources. Throws RhyzomeError
 * `conflict` when no node is away that it waits for.
 */
export async function entombNow(tx: Tx, tenantId: string, ids: readonly string[]): Promise<void> {
  const away = await sql<{ id: string; nodeId: string }>`
    select p.resource_id as id, p.node_id as "nodeId" from placement p join node n on n.id = p.node_id
    where p.tenant_id = ${tenantId} and p.resource_id = any (${[...ids]}::uuid[]) and not p.present
      and p.tombstoned_at is null and node_state(n) in ('unreachable', 'gone')`.execute(tx);
  if (away.rows.length === 0)
    throw new RhyzomeError('conflict', 'The job does not wait for a node that is unreachable to remove something.');
  for (const { id, nodeId } of away.rows) await entomb(tx, { tenantId, id }, [nodeId]);
}

/**
 * In the transaction that frees the leases of an instance: those that a machine which may still run somewhere uses stay
 * held. A node that is gone runs nothing.
 */
export async function holdLeases(tx: Tx, instance: Who): Promise<void> {
  await sql`
    insert into held_address (tenant_id, network_id, ip, node_id, resource_id, revision)
    select l.tenant_id, l.network_id, l.ip, p.node_id, p.resource_id, p.revision
    from lease l join placement p on p.tenant_id = l.tenant_id and p.resource_id = l.instance_id
    join node n on n.id = p.node_id
    where l.tenant_id = ${instance.tenantId} and l.instance_id = ${instance.id} and p.tombstoned_at is not null
      and n.gone_at is null`.execute(tx);
}

/** In the transaction that frees a public address: nodes that have not heard that it left their network may still answer for it. */
export async function holdPublicAddress(tx: Tx, tenantId: string, networkId: string, ip: string): Promise<void> {
  await sql`
    insert into held_address (tenant_id, network_id, ip, node_id, resource_id, revision)
    select p.tenant_id, null, ${ip}::inet, p.node_id, p.resource_id, p.revision
    from placement p join node n on n.id = p.node_id
    where p.tenant_id = ${tenantId} and p.resource_id = ${networkId} and n.gone_at is null
      and not (p.observed_revision = p.revision and p.phase = 'ready')`.execute(tx);
}

/** A node has reached this of a resource: what it may have used until then is free. */
export async function freeHeld(tx: Tx, who: Who, nodeId: string, revision: number): Promise<void> {
  await sql`
    delete from held_address where tenant_id = ${who.tenantId} and resource_id = ${who.id} and node_id = ${nodeId}
      and revision <= ${revision}`.execute(tx);
}

/** The nodes for which an address of a network, or (null) a public one, is held, as a user reads them; null: it is not. */
export async function heldFor(tx: Tx, tenantId: string, networkId: string, ip: string): Promise<string | null> {
  const result = await sql<{ nodes: string | null }>`
    select string_agg(distinct n.name, ', ') as nodes from held_address h join node n on n.id = h.node_id
    where h.tenant_id = ${tenantId} and h.network_id = ${networkId} and h.ip = ${ip}::inet`.execute(tx);
  return result.rows[0]?.nodes ?? null;
}
