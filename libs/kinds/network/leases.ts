/** Leases of a network: every address that anything has on it. Claimed in the request's own transaction. */

import { type Selectable, sql } from 'kysely';
import { newId, RhyzomeError } from '#libs/core';
import { type DB, type Tx } from '#libs/db';
import { heldFor, holdLeases } from '#libs/nodes';

export type LeaseRow = Selectable<DB['lease']>;

export interface NewLease {
  tenantId: string;
  networkId: string;
  /** Undefined: the lowest free one. */
  ip?: string;
  mac: string;
  hostname: string | null;
  /** Set for an automatic lease. */
  instance?: { id: string; ordinal: number };
  /** Where the request named the address, for the refusal. */
  pointer: string;
}

/** Nodes are told a network with all its leases in one message (libs/rpc limits it to 4 MiB); so many stay below 3 MiB. */
export const MAX_LEASES = 16_384;

/**
 * Takes an address; the network stays locked until the transaction ends. Throws RhyzomeError `address_in_use`,
 * `mac_in_use`, `no_free_address`, `busy` or `conflict` while subnet or gateway change.
 */
export async function claimLease(tx: Tx, lease: NewLease): Promise<LeaseRow> {
  const ip = lease.ip ?? (await nextFree(tx, lease));
  const row = await insertLease(tx, lease, ip);
  if (row) {
    if (lease.ip !== undefined) await refuseHeld(tx, lease, ip);
    await refuseNoGround(tx, lease, ip);
    return row;
  }
  // Which of the two unique keys was hit decides the answer.
  const sameMac = await tx
    .selectFrom('lease')
    .select('id')
    .where('tenant_id', '=', lease.tenantId)
    .where('network_id', '=', lease.networkId)
    .where('mac', '=', lease.mac)
    .executeTakeFirst();
  if (sameMac) {
    throw new RhyzomeError('mac_in_use', `There is a lease for ${lease.mac} in this network already.`, {
      errors: [{ pointer: '/mac', code: 'mac_in_use', message: 'has a lease already' }],
    });
  }
  throw new RhyzomeError('address_in_use', `${ip} is in use in this network; take another, or leave it to Rhyzome.`, {
    errors: [{ pointer: lease.pointer, code: 'address_in_use', message: `${ip} is in use` }],
  });
}

/**
 * Refuses what the network cannot carry: more leases than a node can be told; addresses that an unended update may take
 * away again by restoring subnet and gateway, or that one has taken away since the request was checked. Asked under the
 * network's lock, which the lease's insertion has taken.
 */
async function refuseNoGround(tx: Tx, lease: NewLease, ip: string): Promise<void> {
  const { tenantId, networkId } = lease;
  const result = await sql<{ job: string | null; fits: boolean; used: number }>`
    select (select j.id from job j where j.tenant_id = n.tenant_id and j.resource_id = n.id and j.finished_at is null
        and j.request ? 'document'
        and (j.request -> 'previous' -> 'subnet', j.request -> 'previous' -> 'gateway', j.request -> 'previous' -> 'subnet6')
          is distinct from
          (j.request -> 'document' -> 'subnet', j.request -> 'document' -> 'gateway', j.request -> 'document' -> 'subnet6')) as job,
      ${ip}::inet << n.subnet and ${ip}::inet <> n.gateway as fits,
      n.address_used as used
    from network n where n.tenant_id = ${tenantId} and n.id = ${networkId}`.execute(tx);
  const { job, fits, used } = result.rows[0]!;
  if (used > MAX_LEASES) {
    throw new RhyzomeError('no_free_address', `A network carries at most ${MAX_LEASES} leases; make another.`);
  }
  if (job !== null) {
    throw new RhyzomeError('busy', `Job ${job} changes the network’s addresses; wait for it or cancel it.`, {
      blockers: [{ kind: 'job', id: job, name: 'update', relation: 'running' }],
      retryAfterSeconds: 1,
    });
  }
  if (!fits) throw new RhyzomeError('conflict', 'The network’s addresses have changed just now; try again.');
}

/** What had the address may still use it, on a node that is away. Asked under the network's lock, which who frees it takes. */
async function refuseHeld(tx: Tx, { tenantId, networkId, pointer }: NewLease, ip: string): Promise<void> {
  const nodes = await heldFor(tx, tenantId, networkId, ip);
  if (nodes === null) return;
  const message = `${ip} is held: what had it stood on node ${nodes}, which is away. It is free when the node is back, or fenced by an administrator.`;
  throw new RhyzomeError('address_in_use', message, {
    errors: [{ pointer, code: 'address_in_use', message: `${ip} is held` }],
    extensions: { held: true },
  });
}

async function nextFree(tx: Tx, lease: NewLease): Promise<string> {
  const result = await sql<{ ip: string | null }>`
    select host(claim_address(${lease.tenantId}, ${lease.networkId})) as ip`.execute(tx);
  const ip = result.rows[0]?.ip;
  if (ip) return ip;
  const held = await sql<{ held: number }>`
    select count(*)::int as held from held_address
    where tenant_id = ${lease.tenantId} and network_id = ${lease.networkId}`.execute(tx);
  throw new RhyzomeError('no_free_address', `The network has no free address left.${heldWords(held.rows[0]!.held)}`);
}

function heldWords(held: number): string {
  return held === 0
    ? ''
    : ` ${held} of them are held until the node that had them is back, or is fenced by an administrator.`;
}

async function insertLease(tx: Tx, lease: NewLease, ip: string): Promise<LeaseRow | undefined> {
  return tx
    .insertInto('lease')
    .values({
      tenant_id: lease.tenantId,
      id: newId(),
      network_id: lease.networkId,
      ip,
      mac: lease.mac,
      hostname: lease.hostname,
      automatic: lease.instance !== undefined,
      instance_id: lease.instance?.id ?? null,
      ordinal: lease.instance?.ordinal ?? null,
    })
    .onConflict((oc) => oc.doNothing())
    .returningAll()
    .executeTakeFirst();
}

/** Gives back the automatic leases of an instance, or holds their addresses. Its networks are locked in the order of their ids, as by claims. */
export async function releaseLeasesOf(tx: Tx, tenantId: string, instanceId: string): Promise<void> {
  await sql`select 1 from resource where tenant_id = ${tenantId} and id in (
    select network_id from lease where tenant_id = ${tenantId} and instance_id = ${instanceId})
    order by id for no key update`.execute(tx);
  await holdLeases(tx, { tenantId, id: instanceId });
  await tx.deleteFrom('lease').where('tenant_id', '=', tenantId).where('instance_id', '=', instanceId).execute();
}

/** Gives an instance's leases its new name. */
export async function renameLeasesOf(tx: Tx, tenantId: string, instanceId: string, hostname: string): Promise<void> {
  await tx
    .updateTable('lease')
    .set({ hostname })
    .where('tenant_id', '=', tenantId)
    .where('instance_id', '=', instanceId)
    .execute();
}

/** A locally administered unicast MAC (IEEE 802) that is random in its other 46 bits. */
export function randomMac(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  bytes[0] = (bytes[0]! & 0xfc) | 0x02;
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
