/** Machines as networks know them: an instance's row with its tags and leases, without one that runs. */
import { sql } from 'kysely';
import { newId, type Tags } from '#libs/core';
import { claimLease, randomMac } from '#libs/kinds/network';
import type { Platform } from './platform.js';

export interface Guest {
  id: string;
  name: string;
  /** One a network, in their order. */
  ips: string[];
}

/** Makes one on the platform's node with an interface on each of the networks. */
export async function guestOn(
  platform: Pick<Platform, 'db' | 'node'>,
  tenantId: string,
  networkIds: readonly string[],
  tags: Tags = {},
): Promise<Guest> {
  const id = newId();
  const name = `guest-${id.slice(-12)}`;
  const ips = await platform.db.tenantTransaction(tenantId, async (tx) => {
    await sql`insert into resource (tenant_id, id, kind, name, tags, state, created_by, observed_generation)
      values (${tenantId}, ${id}, 'instance', ${name}, ${JSON.stringify(tags)}::jsonb, 'ready', 'test', 1)`.execute(tx);
    const taken: string[] = [];
    for (const [ordinal, networkId] of networkIds.entries()) {
      const lease = { tenantId, networkId, mac: randomMac(), hostname: name, instance: { id, ordinal }, pointer: '' };
      taken.push((await claimLease(tx, lease)).ip);
    }
    return taken;
  });
  await sql`insert into reservation (tenant_id, resource_id, node_id, vcpus, memory_mib, disk_gib)
    values (${tenantId}, ${id}, ${platform.node.id}, 0, 0, 0)`.execute(platform.db.operator);
  return { id, name, ips };
}

/** A pool of public addresses as `rhyzome pool create` makes it; one that is there stays. */
export async function publicPool(platform: Pick<Platform, 'db'>, name: string, first: string, last: string) {
  await platform.db.operatorTransaction(async (tx) => {
    await sql`insert into public_pool (name) values (${name}) on conflict do nothing`.execute(tx);
    await sql`insert into public_pool_range (pool, first_ip, last_ip, hint)
      values (${name}, ${first}, ${last}, ${first}) on conflict do nothing`.execute(tx);
  });
}

/** What makes a small machine on a network; it wants the image `tiny`. */
export function machineOn(network: string) {
  return { name: 'machine', image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network }] };
}
