/** What a new disk is made from, found and checked. Foreign sources are as unknown as absent ones. */
import { sql } from 'kysely';
import type { FieldError } from '#libs/core';
import { type Referenced, type RowScope, referencedColumn, usable } from '#libs/resources';
import { type DiskImage, findImage, GIB, type ImageColumns, imageOf, isNamed } from './rows.js';

export interface SnapshotSource {
  id: string;
  diskId: string;
  virtualSizeBytes: number;
  /** That its disk builds on. */
  image: DiskImage | null;
}

export interface Sources {
  image?: DiskImage;
  snapshot?: SnapshotSource;
}

interface Asked {
  image?: string;
  snapshot?: string;
  sizeGiB?: number;
}

export async function findSources(scope: RowScope, asked: Asked): Promise<{ errors: FieldError[]; sources: Sources }> {
  if (asked.image !== undefined && asked.snapshot !== undefined) {
    const message = 'cannot be given together with an image';
    return { errors: [{ pointer: '/snapshot', code: 'invalid_value', message }], sources: {} };
  }
  const sources: Sources = {};
  const errors: FieldError[] = [];
  const missing = (field: string) =>
    errors.push({ pointer: `/${field}`, code: 'not_found', message: `is no ${field} that you may use` });
  if (asked.image !== undefined) {
    sources.image = await findImage(scope, asked.image);
    if (!sources.image) missing('image');
  } else if (asked.snapshot !== undefined) {
    sources.snapshot = await findSnapshot(scope, asked.snapshot);
    if (!sources.snapshot) missing('snapshot');
  } else if (asked.sizeGiB === undefined) {
    const message = 'is needed where there is neither an image nor a snapshot';
    errors.push({ pointer: '/sizeGiB', code: 'required', message });
  }
  const least = sources.image?.virtualSizeBytes ?? sources.snapshot?.virtualSizeBytes ?? 0;
  if (asked.sizeGiB !== undefined && asked.sizeGiB * GIB < least) {
    const message = `must be at least the ${Math.ceil(least / GIB)} GiB of what it is made from`;
    errors.push({ pointer: '/sizeGiB', code: 'out_of_range', message });
  }
  return { errors, sources };
}

async function findSnapshot(scope: RowScope, reference: string): Promise<SnapshotSource | undefined> {
  const rows = await scope.rows(
    sql<ImageColumns & Referenced & { id: string; diskId: string; virtualSizeBytes: number }>`
      select ${referencedColumn}, r.id, k.disk_id as "diskId", k.virtual_size_bytes as "virtualSizeBytes", d.image_tenant_id, d.image_id,
        d.image_sha256, d.image_format, d.image_size_bytes, d.image_virtual_size_bytes
      from resource r join snapshot k on k.tenant_id = r.tenant_id and k.id = r.id
      join disk d on d.tenant_id = k.tenant_id and d.id = k.disk_id
      where r.tenant_id = ${scope.tenantId} and r.kind = 'snapshot' and r.state = 'ready' and ${isNamed(reference)}`.compile(
      scope.builder,
    ),
  );
  const [row] = usable(scope, rows);
  return row && { id: row.id, diskId: row.diskId, virtualSizeBytes: row.virtualSizeBytes, image: imageOf(row) };
}
