/** Disks from an instance's side: the boot disk that comes and goes with it, and disks that were there and that it takes. */

import { sql } from 'kysely';
import { newId, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { holdLentContent } from '#libs/kinds/image';
import { releaseReservation, splitReservation, withdraw } from '#libs/nodes';
import { addEdges, blockersOf, deleteResource, dropEdges, updateResource, type Who } from '#libs/resources';
import { take } from './attaching.js';
import { insertDisk } from './disk.resource.js';
import { type DiskImage, type FoundDisk, imageEdge, lockUsableDisk } from './rows.js';

/**
 * Writes the boot disk of a new instance, a disk like any other that goes with it. It is called as the instance, or, where
 * a disk is called so already, with a part of its id behind that. The room is a part of the instance's reservation.
 */
export async function addBootDisk(
  tx: Tx,
  instance: ResourceCore,
  options: { sizeGiB: number; image: DiskImage; nodeId: string },
): Promise<string> {
  const { tenantId } = instance;
  const { sizeGiB, image, nodeId } = options;
  const id = newId();
  const core = { tenantId, id };
  await holdLentContent(tx, tenantId, image);
  await insertNamed(tx, instance, id);
  await insertDisk(tx, core, sizeGiB, image, { with_instance: true });
  await tx
    .updateTable('disk')
    .set({ node_id: nodeId })
    .where('tenant_id', '=', tenantId)
    .where('id', '=', id)
    .execute();
  const edges = imageEdge(tenantId, image);
  await addEdges(tx, core, edges, () => new RhyzomeError('conflict', 'The image is being removed; take another.'));
  await splitReservation(tx, instance.id, id, sizeGiB);
  await take(tx, core, { instanceId: instance.id, slot: 0, bootOrder: 1 });
  return id;
}

/** Of two that take a name at once the second waits for the first here, and takes another. */
async function insertNamed(tx: Tx, { tenantId, id, name }: ResourceCore, diskId: string): Promise<void> {
  const own = `${name.slice(0, 54).replace(/-+$/, '')}-${diskId.slice(-8)}`;
  const insert = (taken: string) =>
    sql<{ id: string }>`
    insert into resource (tenant_id, id, kind, name, tags, state, created_by)
    select ${tenantId}, ${diskId}, 'disk', ${taken}, '{}', 'pending', r.created_by
    from resource r where r.tenant_id = ${tenantId} and r.id = ${id}
      and not exists (select 1 from job j where j.tenant_id = ${tenantId} and j.kind = 'disk' and j.finished_at is null
        and j.held_name = ${taken})
    on conflict (tenant_id, kind, name) do nothing returning id`.execute(tx);
  if ((await insert(name)).rows.length === 0) await insert(own);
}

/**
 * Attaches disks that are there to a new instance, the first of them to boot from if `boots`. Throws RhyzomeError
 * `in_use` when another has one of them, `not_ready`, `busy`.
 */
export async function takeDisks(tx: Tx, instance: Who, disks: readonly FoundDisk[], boots: boolean): Promise<void> {
  const { tenantId } = instance;
  const inOrder = [...disks].sort((a, b) => (a.id < b.id ? -1 : 1));
  for (const { id } of inOrder) refuseTaken(await lockUsableDisk(tx, tenantId, id));
  for (const [index, { id }] of disks.entries()) {
    const isBoot = boots && index === 0;
    const place = { instanceId: instance.id, slot: boots ? index : index + 1, bootOrder: isBoot ? 1 : null };
    await take(tx, { tenantId, id }, place);
    await updateResource(tx, { tenantId, id }, {});
  }
}

function refuseTaken(disk: FoundDisk): void {
  if (disk.instanceId === null) return;
  throw new RhyzomeError('in_use', `Another instance has the disk “${disk.name}”; detach it first.`, {
    blockers: [{ kind: 'instance', id: disk.instanceId, name: '', relation: 'has attached' }],
  });
}

/** The disk that came with an instance, if it did; undefined otherwise. */
export async function ownBootDisk(tx: Tx, instance: Who): Promise<Who | undefined> {
  const row = await tx
    .selectFrom('disk')
    .select('id')
    .where('tenant_id', '=', instance.tenantId)
    .where('instance_id', '=', instance.id)
    .where('with_instance', '=', true)
    .executeTakeFirst();
  return row && { tenantId: instance.tenantId, id: row.id };
}

/** The state of a boot disk that its instance's job has brought there. */
export async function settleBootDisk(tx: Tx, disk: Who, state: 'ready' | 'failed' | 'pending'): Promise<void> {
  const { tenantId, id } = disk;
  const made = state === 'ready';
  if (made) {
    await tx.updateTable('disk').set({ made }).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
  }
  await updateResource(tx, disk, { state, ...(made && { observedGeneration: 1 }) });
}

/**
 * Lets the disk that came with an instance go with it, from its node to begin with: unless it is protected, or something
 * else needs it (snapshots), or a job of its own is under way; then it stays, attached to none. True if it goes.
 */
export async function retireBootDisk(tx: Tx, instance: Who): Promise<boolean> {
  const disk = await ownBootDisk(tx, instance);
  if (!disk) return false;
  const locked = await sql<{ free: boolean }>`
    select not r.deletion_protection and not exists (select 1 from job j
      where j.tenant_id = r.tenant_id and j.resource_id = r.id and j.finished_at is null) as free
    from resource r where r.tenant_id = ${disk.tenantId} and r.id = ${disk.id} for update`.execute(tx);
  const others = (await blockersOf(tx, disk)).filter(({ id }) => id !== instance.id);
  if (!locked.rows[0]?.free || others.length > 0) return false;
  await updateResource(tx, disk, { state: 'deleting' });
  await withdraw(tx, disk);
  return true;
}

/** Deletes the rows of a boot disk that went with its instance; one that a job of its own removes is left to that. */
export async function releaseBootDisk(tx: Tx, instance: Who): Promise<void> {
  const result = await sql<{ id: string }>`
    select k.id from disk k join resource r on r.tenant_id = k.tenant_id and r.id = k.id
    where k.tenant_id = ${instance.tenantId} and k.instance_id = ${instance.id} and k.with_instance
      and r.state in ('deleting', 'pending', 'failed')
      and not exists (select 1 from job j where j.tenant_id = r.tenant_id and j.resource_id = r.id
        and j.finished_at is null)`.execute(tx);
  for (const { id } of result.rows) {
    const disk = { tenantId: instance.tenantId, id };
    await dropEdges(tx, instance);
    await dropEdges(tx, disk);
    await releaseReservation(tx, disk);
    await deleteResource(tx, disk);
  }
}
