/**
 * Disks of an instance that moves to another node: what is desired of them on both, with their snapshots. While a move is
 * under way nothing else is done to them.
 */
import { type RawBuilder, sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import { type Tx, wakeAfterCommit } from '#libs/db';
import type { Incoming } from '#libs/drivers/contract';
import { desire, withdraw } from '#libs/nodes';
import { addEdges, updateResource, type Who, withCondition } from '#libs/resources';
import { awaitedDesire, diskDesire, tellDisk } from './on-node.js';
import { type DiskImage, imageColumns, imageEdge } from './rows.js';

export interface MovableDisk {
  id: string;
  name: string;
  sizeGiB: number;
  /** The shared storage that it lies on; null: it is on its node's own. */
  storage: string | null;
  /** Ids of its snapshots. */
  snapshots: string[];
}

/**
 * The disks of an instance, locked, in the order of their slots. Throws RhyzomeError `busy` while something else is under
 * way with one of them or its snapshots, `not_ready` for one that is not whole.
 */
export function lockMovable(tx: Tx, tenantId: string, instanceId: string): Promise<MovableDisk[]> {
  return lockMovableWhere(tx, sql`d.tenant_id = ${tenantId} and d.instance_id = ${instanceId}`);
}

/** A disk that moves alone, locked. Throws RhyzomeError as `lockMovable`, and `in_use` when an instance has it. */
export async function lockMovableAlone(tx: Tx, { tenantId, id }: Who): Promise<MovableDisk> {
  const [disk] = await lockMovableWhere(tx, sql`d.tenant_id = ${tenantId} and d.id = ${id}`);
  if (!disk) throw new RhyzomeError('not_ready', 'The disk is being removed.');
  if (disk.instance === null) return disk;
  throw new RhyzomeError('in_use', 'An instance has the disk: it moves with that, or else detach it first.', {
    blockers: [{ kind: 'instance', id: disk.instance, name: '', relation: 'has attached' }],
  });
}

/** What is being made from a snapshot of one needs it where it is. */
async function lockMovableWhere(
  tx: Tx,
  which: RawBuilder<unknown>,
): Promise<(MovableDisk & { instance: string | null })[]> {
  await sql`
    select 1 from resource r join disk d on d.tenant_id = r.tenant_id and d.id = r.id
    where ${which} order by r.id for no key update of r`.execute(tx);
  const result = await sql<MovableDisk & { instance: string | null; state: string; made: boolean; job: string | null }>`
    select d.id, r.name, d.size_gib as "sizeGiB", d.storage, d.instance_id as instance, r.state, d.made,
      array(select s.id from snapshot s where s.tenant_id = d.tenant_id and s.disk_id = d.id order by s.id) as snapshots,
      (select j.id from job j where j.tenant_id = d.tenant_id and j.finished_at is null and (j.resource_id = d.id
        or j.resource_id in (select s.id from snapshot s where s.tenant_id = d.tenant_id and s.disk_id = d.id)
        or j.resource_id in (select c.id from disk c
          where c.tenant_id = d.tenant_id and c.snapshot_disk_id = d.id and not c.made)) limit 1) as job
    from disk d join resource r on r.tenant_id = d.tenant_id and r.id = d.id
    where ${which} order by d.slot, d.id`.execute(tx);
  for (const { name, state, made, job } of result.rows) {
    if (job) {
      throw new RhyzomeError('busy', `Job ${job} of the disk “${name}” or of something made from it has not ended.`, {
        blockers: [{ kind: 'job', id: job, name: '', relation: 'running' }],
        retryAfterSeconds: 1,
      });
    }
    if (!made || state !== 'ready') throw new RhyzomeError('not_ready', `The disk “${name}” is ${state}.`);
  }
  return result.rows.map(({ id, name, sizeGiB, storage, instance, snapshots }) => ({
    ...{ id, name, sizeGiB, storage, instance, snapshots },
  }));
}

/** Has a disk awaited on the node that it moves to. Undo: `leaveDisk` there. */
export async function awaitDisk(tx: Tx, disk: Who, nodeId: string, incoming: Incoming): Promise<void> {
  const told = await awaitedDesire(tx, disk, nodeId, incoming);
  if (told) await desire(tx, { tenantId: disk.tenantId, id: disk.id, kind: 'disk' }, nodeId, told);
}

/** Of the disks of an instance, those whose files both nodes see: they need not be sent. */
export async function sharedWith(tx: Tx, tenantId: string, instanceId: string, toNode: string): Promise<string[]> {
  const result = await sql<{ id: string }>`
    select d.id from disk d join node n on n.storage = d.storage
    where d.tenant_id = ${tenantId} and d.instance_id = ${instanceId} and n.id = ${toNode} order by d.slot`.execute(tx);
  return result.rows.map(({ id }) => id);
}

/** Lets a disk be on another node from now on, with its snapshots, and tells that one. */
export async function moveDisk(tx: Tx, disk: Who, toNode: string): Promise<void> {
  const { tenantId, id } = disk;
  await tx
    .updateTable('disk')
    .set({ node_id: toNode })
    .where('tenant_id', '=', tenantId)
    .where('id', '=', id)
    .execute();
  await tellWithSnapshots(tx, disk, toNode);
}

async function tellWithSnapshots(tx: Tx, disk: Who, nodeId: string): Promise<void> {
  const { tenantId, id } = disk;
  const told = await diskDesire(tx, disk);
  if (told) await desire(tx, { tenantId, id, kind: 'disk' }, nodeId, told);
  for (const snapshot of await snapshotsOf(tx, disk)) {
    const { generation } = snapshot;
    await desire(tx, { tenantId, id: snapshot.id, kind: 'snapshot' }, nodeId, { generation, spec: { diskId: id } });
  }
}

/**
 * Lets a disk on shared storage be another node's, with its snapshots and all that is in it. The node that it is taken from
 * runs nothing with it any more, and is told of it only when the other has it (`forgetDisk`): until then the file is its own.
 */
export async function takeOverDisk(tx: Tx, disk: Who, { fromNode, toNode }: { fromNode: string; toNode: string }) {
  const { tenantId, id } = disk;
  await sql`update disk set node_id = ${toNode}, taken_from = taken_from || ${fromNode}::uuid
    where tenant_id = ${tenantId} and id = ${id}`.execute(tx);
  await sql`select move_disk_reservation(${id}, ${toNode})`.execute(tx);
  await sql`delete from placement where tenant_id = ${tenantId} and node_id = ${fromNode} and (resource_id = ${id}
    or resource_id in (select s.id from snapshot s where s.tenant_id = ${tenantId} and s.disk_id = ${id}))`.execute(tx);
  await tellWithSnapshots(tx, disk, toNode);
}

/** The disks of an instance that were taken over are their node's now: those that had them forget them, and leave the files. */
export function forgetTaken(tx: Tx, tenantId: string, instanceId: string): Promise<void> {
  return forgetTakenWhere(tx, sql`d.tenant_id = ${tenantId} and d.instance_id = ${instanceId}`);
}

/** The same of a disk that moved alone. */
export function forgetTakenAlone(tx: Tx, { tenantId, id }: Who): Promise<void> {
  return forgetTakenWhere(tx, sql`d.tenant_id = ${tenantId} and d.id = ${id}`);
}

async function forgetTakenWhere(tx: Tx, which: RawBuilder<unknown>): Promise<void> {
  const told = await sql<{ nodeId: string }>`
    insert into placement (tenant_id, resource_id, node_id, kind, generation, present, spec)
    select t.tenant_id, t.id, n.id, t.kind, t.generation, false, null
    from disk d cross join lateral unnest(d.taken_from) f join node n on n.id = f
    cross join lateral (
      select r.tenant_id, r.id, r.kind, r.generation from resource r where r.tenant_id = d.tenant_id and (r.id = d.id
        or r.id in (select s.id from snapshot s where s.tenant_id = d.tenant_id and s.disk_id = d.id))) t
    where ${which} and n.id <> d.node_id
    on conflict (tenant_id, resource_id, node_id) do nothing returning node_id as "nodeId"`.execute(tx);
  for (const { nodeId } of told.rows) wakeAfterCommit('rhyzome_node', nodeId);
}

/** Takes a disk and its snapshots from a node that it is not on (any more). */
export async function leaveDisk(tx: Tx, disk: Who, nodeId: string): Promise<void> {
  for (const { id } of await snapshotsOf(tx, disk)) await withdraw(tx, { tenantId: disk.tenantId, id }, nodeId);
  await withdraw(tx, disk, nodeId);
}

async function snapshotsOf(tx: Tx, disk: Who): Promise<{ id: string; generation: number }[]> {
  const result = await sql<{ id: string; generation: number }>`
    select s.id, r.generation from snapshot s join resource r on r.tenant_id = s.tenant_id and r.id = s.id
    where s.tenant_id = ${disk.tenantId} and s.disk_id = ${disk.id} and r.state in ('ready', 'updating')
    order by s.id`.execute(tx);
  return result.rows;
}

/**
 * Has a disk made anew on another node, of an image or empty, as after the loss of its node: there its file stays, and
 * nothing says any more that it should be there or not. Its snapshots are lost, and say so.
 */
export async function remakeDisk(
  tx: Tx,
  disk: Who,
  from: { image: { tenantId: string; id: string } | null; fromNode: string; toNode: string },
): Promise<void> {
  const { tenantId, id } = disk;
  const image = from.image && (await imageRow(tx, from.image));
  if (image) await dropImageEdges(tx, disk);
  await tx
    .updateTable('disk')
    .set({ node_id: from.toNode, made: true, ...(image && imageColumns(image)) })
    .where('tenant_id', '=', tenantId)
    .where('id', '=', id)
    .execute();
  const edges = imageEdge(tenantId, image);
  await addEdges(
    tx,
    disk,
    edges,
    () => new RhyzomeError('conflict', 'The image is being removed just now; try again.'),
  );
  const snapshots = await sql<{ id: string; conditions: unknown[]; generation: number }>`
    select r.id, r.conditions, r.generation from snapshot s join resource r on r.tenant_id = s.tenant_id and r.id = s.id
    where s.tenant_id = ${tenantId} and s.disk_id = ${id} and r.state <> 'deleting' for no key update of r`.execute(tx);
  for (const { id: snapshotId, conditions, generation } of snapshots.rows) {
    await updateResource(
      tx,
      { tenantId, id: snapshotId },
      {
        state: 'failed',
        conditions: withCondition(conditions, {
          type: 'Ready',
          status: 'false',
          reason: 'Lost',
          message: 'It was lost with the node that its disk lay on.',
          observedGeneration: generation,
        }),
      },
    );
  }
  const lost = [id, ...snapshots.rows.map((snapshot) => snapshot.id)];
  await sql`delete from placement
    where tenant_id = ${tenantId} and node_id = ${from.fromNode} and resource_id = any(${lost}::uuid[])`.execute(tx);
  await tellDisk(tx, disk);
  await updateResource(tx, disk, {});
}

async function imageRow(tx: Tx, { tenantId, id }: { tenantId: string; id: string }): Promise<DiskImage | null> {
  const result = await sql<DiskImage>`
    select tenant_id as "tenantId", id, sha256, format, size_bytes as "sizeBytes", virtual_size_bytes as "virtualSizeBytes"
    from image where tenant_id = ${tenantId} and id = ${id} and sha256 is not null`.execute(tx);
  // One that was lent and is gone stays as the disk's own row describes it.
  return result.rows[0] ?? null;
}

async function dropImageEdges(tx: Tx, { tenantId, id }: Who): Promise<void> {
  await sql`delete from dependency d using resource r
    where d.tenant_id = ${tenantId} and d.resource_id = ${id} and d.relation = 'is made from'
      and r.tenant_id = d.target_tenant_id and r.id = d.target_id and r.kind = 'image'`.execute(tx);
}
