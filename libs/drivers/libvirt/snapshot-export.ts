/**
 * A snapshot's content as a file of its own, compressed and without anything that it builds on, put into the content
 * store. The file lies in the snapshot's directory until the store has it, so that a deed that was cut short goes on with
 * the same bytes; what nobody came back for goes after a day.
 */
import { existsSync } from 'node:fs';
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { type DriverContext, DriverError } from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import type { Disks } from './disks.js';
import { copySnapshot, makeAside } from './qcow2.js';
import type { SnapshotRecord, SnapshotRecords } from './snapshot-records.js';

const keepMs = 24 * 60 * 60 * 1000;

export interface ExportParts {
  context: DriverContext;
  runner: Runner;
  disks: Disks;
  snapshots: SnapshotRecords;
}

export interface ExportedImage {
  sha256: string;
  sizeBytes: number;
  virtualSizeBytes: number;
  format: 'qcow2';
}

/** Throws DriverError `disk_full`, `content_store_failed`, `invalid_spec`. */
export async function exportSnapshot(
  parts: ExportParts,
  id: string,
  { diskId, virtualSizeBytes }: SnapshotRecord,
  args: unknown,
  signal: AbortSignal,
): Promise<ExportedImage> {
  const { context, disks, runner, snapshots } = parts;
  const operationId = (args as { operationId?: unknown } | null)?.operationId;
  if (typeof operationId !== 'string' || !/^[A-Za-z0-9_-]{1,128}$/.test(operationId)) {
    throw new DriverError('invalid_spec', 'The export has no proper operation id.', { permanent: true });
  }
  const file = join(snapshots.folders.of(id), `export-${operationId}.qcow2`);
  if (!existsSync(file)) {
    const source = { path: disks.path(diskId), snapshot: id };
    await disks.reading(diskId, null, signal, () =>
      makeAside(file, (path) =>
        copySnapshot(runner, source, { path, sizeBytes: virtualSizeBytes, backing: null, compress: true }, signal),
      ),
    );
  }
  const put = await context.content.put(operationId, file, signal);
  await rm(file, { force: true });
  return { ...put, virtualSizeBytes, format: 'qcow2' };
}

/** Removes what no deed came back for. */
export async function forgetExports(snapshots: SnapshotRecords, now = Date.now()): Promise<void> {
  for (const id of await snapshots.folders.ids()) {
    for (const name of await readdir(snapshots.folders.of(id))) {
      if (!name.startsWith('export-')) continue;
      const file = join(snapshots.folders.of(id), name);
      const { mtimeMs } = await stat(file);
      if (now - mtimeMs > keepMs) await rm(file, { force: true });
    }
  }
}
