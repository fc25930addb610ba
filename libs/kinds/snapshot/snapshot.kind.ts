/** The manifest of kind snapshot. */
import { sql } from 'kysely';
import { refuseMoving } from '#libs/kinds/disk';
import { defineKind, type KindDefinition } from '#libs/resources';
import { SnapshotCreate, SnapshotUpdate, SnapshotView } from './snapshot.dto.js';
import { SnapshotResource, type SnapshotRow } from './snapshot.resource.js';

export const snapshot: KindDefinition<SnapshotRow> = defineKind<SnapshotRow>({
  name: 'snapshot',
  plural: 'snapshots',
  description: 'The fixed state of a disk at one moment.',
  dto: { create: SnapshotCreate, update: SnapshotUpdate, view: SnapshotView },
  table: 'snapshot',
  columns: ['disk_id', 'size_bytes', 'virtual_size_bytes'],
  selections: { node_id: sql`(select d.node_id from disk d where d.tenant_id = k.tenant_id and d.id = k.disk_id)` },
  readOnly: ['sizeBytes', 'virtualSizeBytes'],
  immutable: ['disk'],
  filters: { disk: { column: sql.ref('k.disk_id'), type: 'uuid', description: 'Id of the disk.' } },
  view: (row) => ({
    disk: row.disk_id,
    sizeBytes: row.size_bytes,
    virtualSizeBytes: row.virtual_size_bytes,
  }),
  // It lies in its disk's file, which is on its way.
  leaving: async (tx, core) => {
    const { tenantId, id } = core;
    const result = await sql<{ id: string }>`
      select r.id from snapshot s join resource r on r.tenant_id = s.tenant_id and r.id = s.disk_id
      where s.tenant_id = ${tenantId} and s.id = ${id} for no key update of r`.execute(tx);
    for (const disk of result.rows) await refuseMoving(tx, { tenantId, id: disk.id });
  },
  make: (scope) => new SnapshotResource(scope, snapshot),
  actions: {
    restore: {
      summary: 'Sets the disk back to what it was; its machine must be stopped. What was written since is lost.',
      claim: async (resource, tx) => {
        await (resource as SnapshotResource).claimRestore(tx);
        return undefined;
      },
    },
  },
});
