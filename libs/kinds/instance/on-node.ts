/** A machine on its node: what the node is told of it, always as the rows are in the caller's transaction. */
import { sql } from 'kysely';
import type { Tx } from '#libs/db';
import type { AttachedDiskSpec, Incoming, InstanceSpec } from '#libs/drivers/contract';
import { desire } from '#libs/nodes';
import type { Who } from '#libs/resources';

interface ToldRow {
  generation: number;
  node_id: string | null;
  name: string;
  tags: Record<string, string>;
  vcpus: number;
  memory_mib: number;
  desired_power_state: 'running' | 'stopped';
  restart_policy: 'stay' | 'always';
  ssh_keys: string[];
  user_data: string | null;
  disks: AttachedDiskSpec[];
  interfaces: { network: string; ip: string; mac: string; ip6: string | null }[];
}

/** Tells the node that carries the machine what it should be; nothing where it has no node yet. */
export async function tellInstance(tx: Tx, who: Who, again = false): Promise<void> {
  const told = await instanceDesire(tx, who);
  if (told) await desire(tx, subjectOf(who), told.nodeId, { ...told, again });
}

/** Has it awaited on a node that it moves to; `again`: that one says anew what it has of it. Undo: withdrawing it there. */
export async function awaitInstance(
  tx: Tx,
  who: Who,
  nodeId: string,
  incoming: Incoming,
  again = false,
): Promise<void> {
  const told = await instanceDesire(tx, who);
  if (!told) return;
  const { generation, spec } = told;
  await desire(tx, subjectOf(who), nodeId, { generation, spec: { ...spec, incoming }, again });
}

const subjectOf = ({ tenantId, id }: Who) => ({ tenantId, id, kind: 'instance' });

async function instanceDesire(
  tx: Tx,
  who: Who,
): Promise<{ nodeId: string; generation: number; spec: InstanceSpec } | null> {
  const result = await sql<ToldRow>`
    select r.generation, k.node_id, r.name, r.tags, k.vcpus, k.memory_mib, k.desired_power_state, k.restart_policy,
      k.ssh_keys, (select u.user_data from instance_user_data u where u.tenant_id = k.tenant_id and u.id = k.id),
      (select coalesce(json_agg(json_build_object('diskId', d.id, 'slot', d.slot, 'bootOrder', d.boot_order)
        order by d.slot), '[]') from disk d where d.tenant_id = k.tenant_id and d.instance_id = k.id) as disks,
      (select coalesce(json_agg(json_build_object('network', l.network_id, 'ip', host(l.ip), 'mac', l.mac, 'ip6', host(l.ip6))
        order by l.ordinal), '[]') from lease l where l.tenant_id = k.tenant_id and l.instance_id = k.id) as interfaces
    from resource r join instance k on k.tenant_id = r.tenant_id and k.id = r.id
    where r.tenant_id = ${who.tenantId} and r.id = ${who.id} for no key update of r`.execute(tx);
  const row = result.rows[0];
  if (!row?.node_id) return null;
  const spec: InstanceSpec = {
    name: row.name,
    vcpus: row.vcpus,
    memoryMiB: row.memory_mib,
    disks: row.disks,
    interfaces: row.interfaces.map(({ network, ip, mac, ip6 }) => ({ networkId: network, ip, mac, ip6 })),
    powerState: row.desired_power_state,
    restartPolicy: row.restart_policy,
    guest: { hostname: row.name, tags: row.tags, userData: row.user_data, sshKeys: row.ssh_keys },
  };
  return { nodeId: row.node_id, generation: row.generation, spec };
}

/**
 * Tells it anew where it stands on its node, for what changed beside it. One that is leaving, or whose create failed, stays
 * away: the placement is locked, so that a removal either sees what is told here or is seen.
 */
export async function tellInstanceAgain(tx: Tx, who: Who): Promise<void> {
  await sql`select 1 from resource where tenant_id = ${who.tenantId} and id = ${who.id} for no key update`.execute(tx);
  const stands = await sql`select 1 from placement
    where tenant_id = ${who.tenantId} and resource_id = ${who.id} and present for update`.execute(tx);
  if (stands.rows.length > 0) await tellInstance(tx, who);
}
