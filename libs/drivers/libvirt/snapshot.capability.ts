/**
 * Snapshots as internal snapshots of a disk's qcow2 file, named by their ids: taken of a machine that runs without
 * stopping it, none built on another, nothing ever written into an image. Copies of one (disk.capability.ts) and exports
 * are independent of it.
 */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import {
  type Capability,
  type DriverContext,
  DriverError,
  type Ref,
  type SnapshotSpec,
  type SnapshotStatus,
} from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { checkRef } from '#libs/drivers/network';
import { checkSnapshotSpec } from './disk-spec.js';
import type { Disks } from './disks.js';
import { readJson, writeJson } from './folders.js';
import { formatNode, monitor } from './monitor.js';
import { growDisk, qcow2Info, requireRoom, snapshotOffline, toDiskError } from './qcow2.js';
import { exportSnapshot } from './snapshot-export.js';
import type { SnapshotRecord, SnapshotRecords } from './snapshot-records.js';
import type { Virsh } from './virsh.js';

export interface SnapshotParts {
  context: DriverContext;
  runner: Runner;
  virsh: Virsh;
  disks: Disks;
  snapshots: SnapshotRecords;
}

/** Kind `snapshot`. Verbs: `restore`; `export` with `{operationId}`. */
export function createSnapshotCapability(parts: SnapshotParts): Capability<SnapshotSpec, SnapshotStatus> {
  const { disks, snapshots } = parts;
  const { installation } = parts.context;
  return {
    kind: 'snapshot',
    after: ['disk'],
    async apply(ref, spec, signal) {
      checkRef(installation, ref);
      checkSnapshotSpec(spec);
      const known = await snapshots.load(ref.id);
      if (known && known.diskId !== spec.diskId) {
        throw new DriverError('invalid_spec', 'The snapshot is of another disk.', { permanent: true });
      }
      if (known?.made && (await isThere(parts, ref.id, known))) return status(known);
      return disks.changing([spec.diskId], signal, () => apply(parts, ref, spec));
    },
    async remove(ref, signal) {
      checkRef(installation, ref);
      const record = await snapshots.load(ref.id);
      if (record) {
        await disks.changing([record.diskId], signal, async () => {
          // In a file that is another node's by now, it is that node's, too.
          if (await disks.isOthers(record.diskId)) return;
          if (await isThere(parts, ref.id, record)) await take(parts, 'd', ref.id, record.diskId);
          const note = disks.snapshotNote(record.diskId, ref.id);
          if (note) await rm(note, { force: true });
        });
      }
      await snapshots.folders.release(ref.id);
    },
    async inventory() {
      const found = [];
      for (const id of await snapshots.folders.ids()) {
        const [ref, record] = [await snapshots.folders.ref(id), await snapshots.load(id)];
        if (ref && record) found.push({ ref, status: status(record), ...(!record.made && { damaged: true }) });
      }
      return found;
    },
    async operate(ref, verb, args, signal) {
      checkRef(installation, ref);
      if (verb !== 'restore' && verb !== 'export') {
        throw new DriverError('unknown_verb', `Unknown verb ${verb}.`, { permanent: true });
      }
      const record = await snapshots.load(ref.id);
      if (!record?.made) {
        throw new DriverError('not_found', 'There is no such snapshot on this node.', { permanent: true });
      }
      if (verb === 'export') return exportSnapshot(parts, ref.id, record, args, signal);
      await disks.changing([record.diskId], signal, () => restore(parts, ref.id, record));
      return undefined;
    },
  };
}

/** Undo: remove. A crash in the middle leaves a record that says that it may be there; then it is looked for. */
async function apply(parts: SnapshotParts, ref: Ref, { diskId }: SnapshotSpec): Promise<SnapshotStatus> {
  const { disks, snapshots, runner } = parts;
  const path = disks.path(diskId);
  const note = disks.snapshotNote(diskId, ref.id);
  const known = (await snapshots.load(ref.id)) ?? (note === null ? null : await readJson<SnapshotRecord>(note));
  if (known && (await isThere(parts, ref.id, known))) {
    await snapshots.folders.claim(ref);
    await snapshots.save(ref.id, { ...known, made: true });
    if (note) await writeJson(note, { ...known, made: true });
    return status(known);
  }
  if (known?.made) throw new DriverError('snapshot_lost', 'The snapshot is gone from this node.', { permanent: true });
  if (!existsSync(path)) throw new DriverError('disk_missing', `Disk ${diskId} is not on this node yet.`);
  const { virtualSizeBytes, actualSizeBytes } = await qcow2Info(runner, path);
  const record = { diskId, made: false, sizeBytes: actualSizeBytes, virtualSizeBytes };
  try {
    await requireRoom(dirname(path), virtualSizeBytes);
    await snapshots.folders.claim(ref);
    await snapshots.save(ref.id, record);
    await take(parts, 'c', ref.id, diskId);
  } catch (caught) {
    const error = toDiskError(caught);
    // On a full disk even what little was noted is taken back. Anything else may have happened halfway: apply looks.
    const isFull = error instanceof DriverError && error.code === 'disk_full';
    if (isFull && !(await isThere(parts, ref.id, record))) await snapshots.folders.release(ref.id);
    throw error;
  }
  await snapshots.save(ref.id, { ...record, made: true });
  if (note) await writeJson(note, { ...record, made: true });
  return status(record);
}

/** Makes (`c`) or deletes (`d`) it, where the disk is open at the moment. */
async function take(parts: SnapshotParts, what: 'c' | 'd', id: string, diskId: string): Promise<void> {
  const { disks, runner, virsh } = parts;
  const path = disks.path(diskId);
  const open = await disks.openIn(diskId);
  if (!open) return snapshotOffline(runner, what, id, path);
  const verb = what === 'c' ? 'blockdev-snapshot-internal-sync' : 'blockdev-snapshot-delete-internal-sync';
  const device = await formatNode(virsh, open.domain, path);
  await monitor(virsh, open.domain, verb, { device, name: id });
}

/** The disk's content becomes the snapshot's; its size stays what it is. */
async function restore(parts: SnapshotParts, id: string, { diskId }: SnapshotRecord): Promise<void> {
  const { disks, runner } = parts;
  const path = disks.path(diskId);
  if (await disks.openIn(diskId)) {
    const message = 'A machine runs with the disk; stop it, or detach the disk, before its content is replaced.';
    throw new DriverError('in_use', message, { permanent: true });
  }
  const before = await qcow2Info(runner, path);
  if (!before.snapshots.includes(id)) {
    throw new DriverError('snapshot_lost', 'The snapshot is gone from this node.', { permanent: true });
  }
  await requireRoom(dirname(path), before.virtualSizeBytes);
  await snapshotOffline(runner, 'a', id, path);
  await growDisk(runner, path, before.virtualSizeBytes);
}

async function isThere({ disks, runner }: SnapshotParts, id: string, { diskId }: SnapshotRecord): Promise<boolean> {
  const path = disks.path(diskId);
  return existsSync(path) && (await qcow2Info(runner, path)).snapshots.includes(id);
}

function status({ sizeBytes, virtualSizeBytes }: SnapshotRecord): SnapshotStatus {
  return { sizeBytes, virtualSizeBytes };
}
