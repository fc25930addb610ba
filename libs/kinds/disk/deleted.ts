/**
 * Disks that were deleted and can be had back for a while. They are no resources any more: their names are free. What
 * they hold still stands on its node as desired, with its room reserved, until it is had back, purged, or has expired.
 */
import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { releaseReservation, withdraw } from '#libs/nodes';
import { addEdges, auditDone, type Caller, refuseHeldName, takingName, type Who } from '#libs/resources';
import { tellDisk } from './on-node.js';
import { type DiskRow, type ImageColumns, imageEdge, imageOf } from './rows.js';

export interface DeletedDiskRow extends ImageColumns {
  tenant_id: string;
  id: string;
  name: string;
  tags: Record<string, string>;
  created_by: string;
  created_at: Date;
  size_gib: number;
  node_id: string;
  storage: string | null;
  taken_from: string[];
  deleted_at: Date;
  expires_at: Date;
}

/** Keeps what a disk that is being removed holds, if it was not taken from its node; true if so. */
export async function keepDeleted(tx: Tx, row: DiskRow): Promise<boolean> {
  const kept = await sql`
    insert into deleted_disk (tenant_id, id, name, tags, created_by, created_at, size_gib, image_tenant_id, image_id,
      image_sha256, image_format, image_size_bytes, image_virtual_size_bytes, node_id, storage, taken_from, expires_at)
    select r.tenant_id, r.id, r.name, r.tags, r.created_by, r.created_at, k.size_gib, k.image_tenant_id, k.image_id,
      k.image_sha256, k.image_format, k.image_size_bytes, k.image_virtual_size_bytes, k.node_id, k.storage,
      k.taken_from,       now() + coalesce(i.deleted_disks_kept, '1 hour')
    from resource r join disk k on k.tenant_id = r.tenant_id and k.id = r.id cross join installation i
    where r.tenant_id = ${row.tenant_id} and r.id = ${row.id} and exists (select 1 from placement p
      where p.tenant_id = r.tenant_id and p.resource_id = r.id and p.present)
    returning id`.execute(tx);
  return kept.rows.length > 0;
}

/** The tenant's deleted disk, locked; undefined when there is none. */
export async function lockDeleted(tx: Tx, who: Who): Promise<DeletedDiskRow | undefined> {
  const result = await sql<DeletedDiskRow>`
    select * from deleted_disk where tenant_id = ${who.tenantId} and id = ${who.id} for update`.execute(tx);
  return result.rows[0];
}

/**
 * Makes it a disk again, with its id, under `name`. Throws RhyzomeError `name_taken`; `conflict` when the image that it
 * builds on is being removed just now.
 */
export async function restoreDeleted(tx: Tx, row: DeletedDiskRow, name: string): Promise<ResourceCore> {
  const core = { tenantId: row.tenant_id, id: row.id, kind: 'disk', name, tags: row.tags };
  const written = sql`
    insert into resource (tenant_id, id, kind, name, tags, state, observed_generation, created_by, created_at)
    values (${core.tenantId}, ${core.id}, 'disk', ${name}, ${JSON.stringify(row.tags)}::jsonb, 'ready', 1,
      ${row.created_by}, ${row.created_at})`.execute(tx);
  await takingName(
    core,
    name,
    written.then(() => undefined),
  );
  await refuseHeldName(tx, core, name);
  await tx.deleteFrom('deleted_disk').where('tenant_id', '=', core.tenantId).where('id', '=', core.id).execute();
  await sql`
    insert into disk (tenant_id, id, size_gib, image_tenant_id, image_id, image_sha256, image_format, image_size_bytes,
      image_virtual_size_bytes, node_id, made)
    values (${core.tenantId}, ${core.id}, ${row.size_gib}, ${row.image_tenant_id}, ${row.image_id}, ${row.image_sha256},
      ${row.image_format}, ${row.image_size_bytes}, ${row.image_virtual_size_bytes}, ${row.node_id}, true)`.execute(tx);
  // Where it lies already, whatever its node makes disks on by now.
  await sql`update disk set storage = ${row.storage}, taken_from = ${row.taken_from}::uuid[]
    where tenant_id = ${core.tenantId} and id = ${core.id}`.execute(tx);
  await keepImage(tx, core, row);
  await tellDisk(tx, core);
  return core;
}

/** The image may have been removed since; its content is kept for the disk all the same. */
async function keepImage(tx: Tx, core: Who, row: DeletedDiskRow): Promise<void> {
  const [edge] = imageEdge(core.tenantId, imageOf(row));
  if (!edge) return;
  const there = await sql`select 1 from resource where tenant_id = ${edge.targetTenantId} and id = ${edge.targetId}
    and state <> 'deleting'`.execute(tx);
  if (there.rows.length === 0) return;
  await addEdges(
    tx,
    core,
    [edge],
    () => new RhyzomeError('conflict', 'Its image is being removed just now; try again.'),
  );
}

/** Takes away what it holds, for good. */
export async function purgeDeleted(tx: Tx, who: Who): Promise<void> {
  await tx.deleteFrom('deleted_disk').where('tenant_id', '=', who.tenantId).where('id', '=', who.id).execute();
  await withdraw(tx, who);
  await releaseReservation(tx, who);
}

/** The same by an administrator's word, in the transaction's tenant, with its row of audit. */
export async function purgeDeletedAs(
  tx: Tx,
  caller: Caller,
  { id, name }: { id: string; name: string },
): Promise<void> {
  const { tenantId } = caller.actor;
  if (!(await lockDeleted(tx, { tenantId, id }))) return;
  await purgeDeleted(tx, { tenantId, id });
  await auditDone(tx, caller, 'purge', { kind: 'disk', resourceId: id, resourceName: name });
}

const PURGED_AT_ONCE = 100;

/** Purges what has expired, of all tenants. */
export async function purgeExpired(db: Database, signal: AbortSignal): Promise<void> {
  for (let purged = PURGED_AT_ONCE; purged === PURGED_AT_ONCE && !signal.aborted; ) {
    purged = await db.operatorTransaction(async (tx) => {
      const due = await sql<{ tenant_id: string; id: string }>`
        select tenant_id, id from deleted_disk where expires_at < now()
        order by expires_at limit ${PURGED_AT_ONCE} for update skip locked`.execute(tx);
      for (const { tenant_id: tenantId, id } of due.rows) await purgeDeleted(tx, { tenantId, id });
      return due.rows.length;
    });
  }
}
