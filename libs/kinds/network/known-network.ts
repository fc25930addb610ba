/** A network as its rows have it at one moment, for what nodes are told of it. Reads only. */
import { type RawBuilder, sql } from 'kysely';
import type { Database, Tx } from '#libs/db';
import type { NetworkSpec } from '#libs/drivers/contract';
import type { Door, Guest, Part, PartFields } from './part-specs.js';
import type { Standing } from './spanning.js';

interface Fields extends Omit<NetworkSpec, 'gatewayMac' | 'leases' | 'overlay' | keyof PartFields> {
  generation: number;
  door: Door | null;
  vni: number;
  /** The node that has its router so far. */
  routerId: string | null;
  toldMembers: string | null;
  /** The nodes that it stands on, in the order in which it came, and the one that joins them. */
  standing: Standing[];
}

/** All that a network's specs are made of. */
export interface Known extends Fields {
  /** In the order of their positions, then names. */
  parts: Part[];
  /** In the order of interfaces, then addresses; with an instance's tags only where a firewall rule may select by them. */
  leases: (Guest & { mac: string; hostname: string | null })[];
}

/** A network with its leases and parts, in one statement. `joining`: a node that it is to stand on, too. */
function networkWith(tenantId: string, id: string, joining: string | undefined): RawBuilder<Known> {
  return sql<Known>`
    select k.subnet, host(k.gateway) as gateway, k.subnet6, host(gateway6_of(k.subnet6, k.subnet, k.gateway)) as gateway6,
      k.dns, k.domain, k.mtu, r.generation, k.vni, k.router_node_id as "routerId", k.told_members as "toldMembers",
      (select json_build_object('privateKey', d.private_key, 'port', d.port) from wireguard_door d
        where d.tenant_id = k.tenant_id and d.network_id = k.id) as door,
      (select coalesce(json_agg(json_build_object('nodeId', n.id, 'port', n.underlay_port, 'state', node_state(n),
          'address', case when n.underlay_mtu >= k.mtu then host(n.underlay) end) order by p.created_at nulls last, n.id), '[]')
        from node n left join placement p
          on p.tenant_id = k.tenant_id and p.resource_id = k.id and p.node_id = n.id and p.present
        where n.id = any (array(select q.node_id from placement q
          where q.tenant_id = k.tenant_id and q.resource_id = k.id and q.present) || ${joining ?? null}::uuid)) as standing,
      (select coalesce(json_agg(json_build_object('resourceId', p.resource_id,
          'spec', p.spec || jsonb_build_object('kind', p.kind)) order by p.position, q.name, q.id), '[]')
        from network_part p join resource q on q.tenant_id = p.tenant_id and q.id = p.resource_id
        where p.tenant_id = k.tenant_id and p.network_id = k.id) as parts,
      (select coalesce(json_agg(json_build_object('ip', host(l.ip), 'ip6', host(l.ip6), 'mac', l.mac,
          'hostname', l.hostname, 'instanceId', l.instance_id, 'nodeId', v.node_id,
          'tags', coalesce(case when exists (select from network_part f
              where f.tenant_id = k.tenant_id and f.network_id = k.id and f.kind = 'firewallRule')
            then (select q.tags from resource q where q.tenant_id = l.tenant_id and q.id = l.instance_id) end, '{}'))
          order by l.ordinal nulls last, l.ip), '[]')
        from lease l left join reservation v on v.tenant_id = l.tenant_id and v.resource_id = l.instance_id
        where l.tenant_id = k.tenant_id and l.network_id = k.id) as leases
    from resource r join network k on k.tenant_id = r.tenant_id and k.id = r.id
    where r.tenant_id = ${tenantId} and r.id = ${id}`;
}

/** As the caller's transaction sees it; null: there is none. */
export async function readNetwork(tx: Tx, tenantId: string, id: string, joining?: string): Promise<Known | null> {
  return (await networkWith(tenantId, id, joining).execute(tx)).rows[0] ?? null;
}

/** As it is now. */
export async function readNetworkNow(db: Database, tenantId: string, id: string): Promise<Known | null> {
  return (await db.tenantRead(tenantId, networkWith(tenantId, id, undefined).compile(db.builder)))[0] ?? null;
}
