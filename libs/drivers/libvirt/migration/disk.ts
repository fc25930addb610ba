/** Disks whose content comes from another node: made ready for it, and used by nobody until it is there. */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import {
  type Asked,
  type DiskSpec,
  type DiskStatus,
  type DriverContext,
  DriverError,
  type Incoming,
  type Message,
  type Ref,
} from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { checkRef } from '#libs/drivers/network';
import type { Disks } from '../disks.js';
import { writeJson } from '../folders.js';
import { createDisk, makeAside, toDiskError, wholeSectors } from '../qcow2.js';
import type { SnapshotRecord, SnapshotRecords } from '../snapshot-records.js';
import { takeFile } from './incoming-file.js';

/**
 * Notes that a disk is awaited, and fetches what it builds on. What is written into a running machine's empty copy is
 * QEMU's doing; a file comes whole. Undo: removing the disk. Throws DriverError `in_use` while an older copy lies here.
 */
export async function awaitDisk(
  { disks }: { disks: Disks },
  ref: Ref,
  spec: DiskSpec,
  { operationId, stays }: Incoming,
  signal: AbortSignal,
): Promise<DiskStatus> {
  const hasArrived = await disks.noting(ref.id, async () => {
    const record = await disks.record(ref.id);
    if (record?.arrived === operationId) return true;
    if (record && record.incoming !== operationId) {
      throw new DriverError('in_use', 'An older copy of the disk is still on this node; it goes first.');
    }
    try {
      await disks.folders.claim(ref);
      await disks.placeAwaited(ref.id, spec);
    } catch (error) {
      throw toDiskError(error);
    }
    return false;
  });
  try {
    if (!hasArrived && spec.image && !stays) await disks.backing(ref.id, spec.image, signal);
  } catch (error) {
    throw toDiskError(error);
  }
  return { sizeBytes: spec.sizeBytes };
}

/** Throws DriverError `content_missing`. */
export async function refuseAwaited(disks: Disks, id: string): Promise<void> {
  if ((await disks.record(id))?.incoming === undefined) return;
  throw new DriverError('content_missing', 'The disk’s content has not come from the other node.');
}

/** Empty, as QEMU wants it for what a running machine's disk has beyond its image. What stays on shared storage is let be. */
export async function emptyDisk(runner: Runner, disks: Disks, id: string, operationId: string): Promise<void> {
  const record = await disks.record(id);
  if (record?.incoming !== operationId) throw notAwaited(id);
  if (record.staysFrom !== undefined) return;
  const backing = record.image && (await disks.backing(id, record.image, new AbortController().signal));
  await rm(disks.path(id), { force: true });
  await makeAside(disks.path(id), (part) => createDisk(runner, part, wholeSectors(record.awaitedBytes ?? 0), backing));
}

/** Its content is there. */
export async function settleDisk(disks: Disks, id: string, operationId: string): Promise<void> {
  await disks.noting(id, async () => {
    const record = await disks.record(id);
    if (record?.arrived === operationId) return;
    if (record?.incoming !== operationId || !existsSync(disks.path(id))) throw notAwaited(id);
    await disks.takeOver(id, record);
    const { image, shared } = record;
    await disks.save(id, { image, made: true, arrived: operationId, ...(shared && { shared }) });
  });
}

interface SentSnapshot {
  ref: Ref;
  record: SnapshotRecord;
}

/** What is noted of a disk's snapshots, which lie in its file. */
export async function snapshotsOf(snapshots: SnapshotRecords, diskId: string): Promise<SentSnapshot[]> {
  const sent: SentSnapshot[] = [];
  for (const id of await snapshots.folders.ids()) {
    const [ref, record] = [await snapshots.folders.ref(id), await snapshots.load(id)];
    if (ref && record?.made && record.diskId === diskId) sent.push({ ref, record });
  }
  return sent;
}

/** Takes in a disk's file that an operation brings, with the snapshots in it. Throws DriverError `not_expected`. */
export async function takeDisk(
  { disks, snapshots, context }: { disks: Disks; snapshots: SnapshotRecords; context: DriverContext },
  ref: Ref,
  operationId: string,
  asked: Asked,
): Promise<void> {
  const { question } = asked;
  const record = await disks.record(ref.id);
  const isThere = record?.arrived === operationId;
  if (question.diskId !== ref.id || (!isThere && record?.incoming !== operationId)) throw notAwaited(ref.id);
  const arrived = async () => {
    await noteSnapshots({ disks, snapshots }, context.installation, ref, question);
    await settleDisk(disks, ref.id, operationId);
  };
  await takeFile(disks.path(ref.id), question, asked, arrived, isThere);
}

/** Notes the snapshots that came in a disk's file, before the disk counts as there. */
async function noteSnapshots(
  { disks, snapshots }: { disks: Disks; snapshots: SnapshotRecords },
  installation: string,
  disk: Ref,
  question: Message,
): Promise<void> {
  for (const { ref, record } of (question.snapshots ?? []) as SentSnapshot[]) {
    checkRef(installation, ref);
    if (ref.tenantId !== disk.tenantId || ref.kind !== 'snapshot' || record.diskId !== disk.id) {
      throw new DriverError('not_expected', 'A snapshot is none of the disk’s.', { permanent: true });
    }
    const { diskId, sizeBytes, virtualSizeBytes } = record;
    await snapshots.folders.claim(ref);
    const noted = { diskId, made: true, sizeBytes, virtualSizeBytes };
    await snapshots.save(ref.id, noted);
    const note = disks.snapshotNote(diskId, ref.id);
    if (note) await writeJson(note, noted);
  }
}

function notAwaited(id: string): DriverError {
  return new DriverError('not_expected', `Disk ${id} is not awaited here.`, { permanent: true });
}
