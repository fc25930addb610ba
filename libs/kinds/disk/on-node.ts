/** A disk on its node: what the node is told of it, always as the rows are in the caller's transaction. */
import { type RawBuilder, sql } from 'kysely';
import type { Tx } from '#libs/db';
import type { DiskSpec, Incoming } from '#libs/drivers/contract';
import { desire } from '#libs/nodes';
import type { Who } from '#libs/resources';
import { GIB, type ImageColumns, imageOf } from './rows.js';

/** The node first brings the image there, up to 64 GiB unless the settings say otherwise, and then writes it out. */
export const MAKE_DISK_MS = 60 * 60_000;

interface ToldRow extends ImageColumns {
  size_gib: number;
  snapshot_id: string | null;
  snapshot_disk_id: string | null;
  made: boolean;
  node_id: string | null;
  storage: string | null;
  taken_from: string[];
  /** Where the node that is asked about makes disks. */
  node_storage: string | null;
  storage_id: string | null;
  generation: number;
}

/** Tells the node that carries the disk what it should be; nothing where it has no node yet. */
export async function tellDisk(tx: Tx, who: Who): Promise<void> {
  const told = await diskDesire(tx, who);
  if (told) await desire(tx, { tenantId: who.tenantId, id: who.id, kind: 'disk' }, told.nodeId, told);
}

export interface DiskDesire {
  nodeId: string;
  generation: number;
  spec: DiskSpec;
}

/** What should be of it, and on which node; null where it has none yet. */
export async function diskDesire(tx: Tx, who: Who): Promise<DiskDesire | null> {
  const row = await toldRow(tx, who, sql`k.storage`);
  if (!row?.node_id) return null;
  const { node_id: nodeId, generation, storage, storage_id: storageId, taken_from: takeFrom } = row;
  const shared = storage !== null && { shared: { storage, storageId: storageId!, node: nodeId, takeFrom } };
  return { nodeId, generation, spec: { ...specOf(row), ...shared } };
}

/** What is to become of it on a node that it comes to; null where it is on none yet. */
export async function awaitedDesire(tx: Tx, who: Who, toNode: string, incoming: Incoming): Promise<DiskDesire | null> {
  const row = await toldRow(tx, who, sql`(select n.storage from node n where n.id = ${toNode})`);
  if (!row?.node_id) return null;
  const { generation, node_storage: storage, storage_id: storageId } = row;
  const shared = storage !== null && { shared: { storage, storageId: storageId!, node: toNode, takeFrom: [] } };
  const stays = storage !== null && storage === row.storage;
  const spec = { ...specOf(row), ...shared, incoming: { ...incoming, ...(stays && { stays }) } };
  return { nodeId: toNode, generation, spec };
}

async function toldRow(tx: Tx, who: Who, storage: RawBuilder<unknown>): Promise<ToldRow | undefined> {
  const result = await sql<ToldRow>`
    select k.*, r.generation, s.name as node_storage, s.id as storage_id
    from disk k join resource r on r.tenant_id = k.tenant_id and r.id = k.id
    left join shared_storage s on s.name = ${storage}
    where k.tenant_id = ${who.tenantId} and k.id = ${who.id}`.execute(tx);
  return result.rows[0];
}

/**
 * What a disk that is made was made from is history: its snapshot may be gone. Until then it has one origin: the image
 * under a snapshot is known to the snapshot's node.
 */
function specOf(row: ToldRow): DiskSpec {
  const isFromSnapshot = !row.made && row.snapshot_id !== null && row.snapshot_disk_id !== null;
  const image = isFromSnapshot ? null : imageOf(row);
  return {
    sizeBytes: row.size_gib * GIB,
    image: image && {
      sha256: image.sha256,
      format: image.format,
      sizeBytes: image.sizeBytes,
      virtualSizeBytes: image.virtualSizeBytes,
    },
    snapshot: isFromSnapshot ? { diskId: row.snapshot_disk_id!, snapshotId: row.snapshot_id! } : null,
  };
}
