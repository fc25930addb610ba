/** A disk on its node: what the node is told of it, always as the rows are in the caller's transaction. */
import { sql } from 'kysely';
import type { Tx } from '#libs/db';
import type { DiskSpec } from '#libs/drivers/contract';
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
  generation: number;
}

/** Tells the node that carries the disk what it should be; nothing where it has no node yet. */
export async function tellDisk(tx: Tx, who: Who): Promise<void> {
  const told = await diskDesire(tx, who);
  if (told) await desire(tx, { tenantId: who.tenantId, id: who.id, kind: 'disk' }, told.nodeId, told);
}

/** What should be of it, and on which node; null where it has none yet. */
export async function diskDesire(
  tx: Tx,
  who: Who,
): Promise<{ nodeId: string; generation: number; spec: DiskSpec } | null> {
  const result = await sql<ToldRow>`
    select k.*, r.generation from disk k join resource r on r.tenant_id = k.tenant_id and r.id = k.id
    where k.tenant_id = ${who.tenantId} and k.id = ${who.id}`.execute(tx);
  const row = result.rows[0];
  return row?.node_id ? { nodeId: row.node_id, generation: row.generation, spec: specOf(row) } : null;
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
