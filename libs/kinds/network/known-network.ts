/** A network as its rows have it at one moment, for what nodes are told of it. Reads only. */
import { sql } from 'kysely';
import type { Tags } from '#libs/core';
import { allInOrder, type Tx } from '#libs/db';
import type { NetworkSpec } from '#libs/drivers/contract';
import type { Door, Guest, Part, PartFields, PartSpec } from './part-specs.js';
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
  parts: Part[];
  leases: (Guest & { mac: string; hostname: string | null })[];
}

/** Reads it with its leases and parts; null: there is none. `joining`: a node that it is to stand on, too. */
export async function readNetwork(tx: Tx, tenantId: string, id: string, joining?: string): Promise<Known | null> {
  const fields = sql<Fields>`
    select k.subnet, host(k.gateway) as gateway, k.subnet6, host(gateway6_of(k.subnet6, k.subnet, k.gateway)) as gateway6,
      k.dns, k.domain, k.mtu, r.generation, k.vni, k.router_node_id as "routerId", k.told_members as "toldMembers",
      (select json_build_object('privateKey', d.private_key, 'port', d.port) from wireguard_door d
        where d.tenant_id = k.tenant_id and d.network_id = k.id) as door,
      (select coalesce(json_agg(json_build_object('nodeId', n.id, 'port', n.underlay_port, 'state', node_state(n),
          'address', case when n.underlay_mtu >= k.mtu then host(n.underlay) end) order by p.created_at nulls last, n.id), '[]')
        from node n left join placement p
          on p.tenant_id = k.tenant_id and p.resource_id = k.id and p.node_id = n.id and p.present
        where n.id = any (array(select q.node_id from placement q
          where q.tenant_id = k.tenant_id and q.resource_id = k.id and q.present) || ${joining ?? null}::uuid)) as standing
    from resource r join network k on k.tenant_id = r.tenant_id and k.id = r.id
    where r.tenant_id = ${tenantId} and r.id = ${id}`.execute(tx);
  const [{ rows }, parts] = await allInOrder([fields, partsOf(tx, tenantId, id)]);
  const row = rows[0];
  if (!row) return null;
  const withTags = parts.some(({ spec }) => spec.kind === 'firewallRule');
  return { ...row, parts, leases: await leasesOf(tx, tenantId, id, withTags) };
}

async function partsOf(tx: Tx, tenantId: string, id: string): Promise<Part[]> {
  const result = await sql<{ resourceId: string; spec: PartSpec }>`
    select p.resource_id as "resourceId", p.spec || jsonb_build_object('kind', p.kind) as spec
    from network_part p join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
    where p.tenant_id = ${tenantId} and p.network_id = ${id} order by p.position, r.name, r.id`.execute(tx);
  return result.rows;
}

/** In the order of interfaces, then addresses; an instance's tags only where something asks for them. */
async function leasesOf(tx: Tx, tenantId: string, id: string, withTags: boolean): Promise<Known['leases']> {
  const tags = withTags
    ? sql`(select r.tags from resource r where r.tenant_id = l.tenant_id and r.id = l.instance_id)`
    : sql`null::jsonb`;
  const result = await sql<Omit<Known['leases'][number], 'tags'> & { tags: Tags | null }>`
    select host(l.ip) as ip, host(l.ip6) as ip6, l.mac, l.hostname, l.instance_id as "instanceId", v.node_id as "nodeId",
      ${tags} as tags
    from lease l left join reservation v on v.tenant_id = l.tenant_id and v.resource_id = l.instance_id
    where l.tenant_id = ${tenantId} and l.network_id = ${id}
    order by l.ordinal nulls last, l.ip`.execute(tx);
  return result.rows.map((row) => ({ ...row, tags: row.tags ?? {} }));
}
