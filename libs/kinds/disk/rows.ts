/** Disks as rows: what every part of this kind, and the instance that boots from one, reads and writes of them. */
import { sql } from 'kysely';
import { type Blocker, isUuid, RhyzomeError, SYSTEM_TENANT } from '#libs/core';
import type { Tx } from '#libs/db';
import type { ImageSpec } from '#libs/drivers/contract';
import {
  type CoreRow,
  type Edge,
  inTransaction,
  type Referenced,
  type RowScope,
  referencedColumn,
  usable,
  type Who,
} from '#libs/resources';

/** The image that a disk builds on, as its own row keeps it. */
export interface DiskImage extends ImageSpec {
  tenantId: string;
  id: string;
}

export interface DiskRow extends CoreRow {
  size_gib: number;
  image_tenant_id: string | null;
  image_id: string | null;
  image_sha256: string | null;
  image_format: 'qcow2' | 'raw' | null;
  image_size_bytes: number | null;
  image_virtual_size_bytes: number | null;
  snapshot_id: string | null;
  snapshot_disk_id: string | null;
  made: boolean;
  node_id: string | null;
  node: string | null;
  instance_id: string | null;
  slot: number | null;
  boot_order: number | null;
  with_instance: boolean;
  restoring: string | null;
}

export const GIB = 2 ** 30;

/** GiB that hold so many bytes, at least one. */
export function gibOf(bytes: number): number {
  return Math.max(1, Math.ceil(bytes / GIB));
}

/** The image's columns of a disk that builds on it. */
export function imageColumns(image: DiskImage | null) {
  return {
    image_tenant_id: image?.tenantId ?? null,
    image_id: image?.id ?? null,
    image_sha256: image?.sha256 ?? null,
    image_format: image?.format ?? null,
    image_size_bytes: image?.sizeBytes ?? null,
    image_virtual_size_bytes: image?.virtualSizeBytes ?? null,
  };
}

export type ImageColumns = Pick<
  DiskRow,
  'image_tenant_id' | 'image_id' | 'image_sha256' | 'image_format' | 'image_size_bytes' | 'image_virtual_size_bytes'
>;

/** The image that a row describes. */
export function imageOf(row: ImageColumns): DiskImage | null {
  if (row.image_sha256 === null) return null;
  return {
    tenantId: row.image_tenant_id!,
    id: row.image_id!,
    sha256: row.image_sha256,
    format: row.image_format!,
    sizeBytes: row.image_size_bytes!,
    virtualSizeBytes: row.image_virtual_size_bytes!,
  };
}

/** An image that a tenant may make disks of: its own or a global one by name, those and published ones by id. */
export async function findImage(scope: RowScope, reference: string): Promise<DiskImage | undefined> {
  const rows = await scope.rows(
    sql<DiskImage & Referenced>`
      select ${referencedColumn}, r.tenant_id as "tenantId", r.id, k.sha256, k.format, k.size_bytes as "sizeBytes",
        k.virtual_size_bytes as "virtualSizeBytes"
      from resource r join image k on k.tenant_id = r.tenant_id and k.id = r.id
      where r.kind = 'image' and r.state in ('ready', 'updating') and ${namedOrShared(scope.tenantId, reference)}
      order by (r.tenant_id = ${scope.tenantId}) desc limit 2`.compile(scope.builder),
  );
  const [image] = usable(scope, rows);
  return image;
}

function namedOrShared(tenantId: string, reference: string) {
  return isUuid(reference)
    ? sql`r.id = ${reference} and (r.tenant_id in (${tenantId}, ${SYSTEM_TENANT}) or r.published)`
    : sql`r.name = ${reference} and r.tenant_id in (${tenantId}, ${SYSTEM_TENANT})`;
}

/**
 * The edge that keeps the image that a disk builds on: the tenant's own and global ones. Those of other tenants are lent: they
 * may go at any time, and only their content is kept (ADR 0024).
 */
export function imageEdge(tenantId: string, image: { tenantId: string; id: string } | null | undefined): Edge[] {
  if (!image || ![tenantId, SYSTEM_TENANT].includes(image.tenantId)) return [];
  return [{ targetTenantId: image.tenantId, targetId: image.id, relation: 'is made from' }];
}

/** A row of another kind's by id or name, in the tenant. */
export function isNamed(reference: string) {
  return isUuid(reference) ? sql<boolean>`r.id = ${reference}` : sql<boolean>`r.name = ${reference}`;
}

export interface FoundDisk {
  id: string;
  name: string;
  state: string;
  sizeGiB: number;
  nodeId: string | null;
  instanceId: string | null;
  restoring: string | null;
  imageId: string | null;
}

/** The tenant's disks that these references name, by reference. */
export async function findDisks(
  scope: RowScope,
  references: readonly string[],
): Promise<Map<string, FoundDisk & Referenced>> {
  if (references.length === 0) return new Map();
  const ids = references.filter((reference) => isUuid(reference));
  const names = references.filter((reference) => !isUuid(reference));
  const rows = await scope.rows(
    sql<FoundDisk & Referenced>`
      select ${referencedColumn}, r.id, r.name, r.state, k.size_gib as "sizeGiB", k.node_id as "nodeId", k.instance_id as "instanceId",
        k.restoring, k.image_id as "imageId"
      from resource r join disk k on k.tenant_id = r.tenant_id and k.id = r.id
      where r.tenant_id = ${scope.tenantId} and r.kind = 'disk'
        and (r.id = any(${ids}::uuid[]) or r.name = any(${names}::text[]))`.compile(scope.builder),
  );
  const known = new Set(usable(scope, rows).map(({ id }) => id));
  return new Map(rows.flatMap((row) => (known.has(row.id) ? [[row.id, row] as const, [row.name, row] as const] : [])));
}

/**
 * Locks a disk that something is about to use, and gives it as it is then. Throws RhyzomeError `not_ready` when it is not
 * there (yet, or any more), `busy` while it is being restored.
 */
export async function lockUsableDisk(tx: Tx, tenantId: string, id: string): Promise<FoundDisk> {
  await sql`select 1 from resource where tenant_id = ${tenantId} and id = ${id} for no key update`.execute(tx);
  const disk = (await findDisks(inTransaction(tx, tenantId), [id])).get(id);
  if (!disk || disk.state === 'deleting') throw notUsable(disk?.name ?? id, 'is being removed');
  if (disk.state !== 'ready' && disk.state !== 'updating') throw notUsable(disk.name, 'is not ready');
  if (disk.restoring) {
    const blockers: Blocker[] = [{ kind: 'snapshot', id: disk.restoring, name: '', relation: 'is being restored' }];
    throw new RhyzomeError('busy', `The disk “${disk.name}” is being set back to a snapshot; wait for that.`, {
      blockers,
      retryAfterSeconds: 1,
    });
  }
  await refuseMoving(tx, { tenantId, id });
  return disk;
}

/** Throws RhyzomeError `busy` while the disk, or the instance that has it, moves to another node. */
export async function refuseMoving(tx: Tx, disk: Who): Promise<void> {
  const result = await sql<{ kind: string; id: string; name: string }>`
    select r.kind, r.id, r.name from disk d
    join move m on m.tenant_id = d.tenant_id and m.resource_id in (d.id, d.instance_id)
    join resource r on r.tenant_id = m.tenant_id and r.id = m.resource_id
    where d.tenant_id = ${disk.tenantId} and d.id = ${disk.id}`.execute(tx);
  const [moving] = result.rows;
  if (!moving) return;
  const what = moving.kind === 'disk' ? 'The disk' : 'The instance that has the disk';
  throw new RhyzomeError('busy', `${what} is being moved to another node; wait for that.`, {
    blockers: [{ kind: moving.kind, id: moving.id, name: moving.name, relation: 'is being moved' }],
    retryAfterSeconds: 1,
  });
}

function notUsable(name: string, why: string): RhyzomeError {
  return new RhyzomeError('not_ready', `The disk “${name}” ${why}; its conditions and jobs say more.`);
}

/** vda, vdb, … by slot. */
export function deviceOf(slot: number | null): string | null {
  return slot === null ? null : `vd${String.fromCharCode(97 + slot)}`;
}
