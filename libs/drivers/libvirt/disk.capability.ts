/**
 * Disks as qcow2 files: made once from what their spec says, grown when it asks for more, never shrunk and never written
 * into an image. One that was made and is gone is a failure: making it anew would pass for the tenant's data.
 */
import { existsSync } from 'node:fs';
import {
  type Capability,
  type DiskSpec,
  type DiskStatus,
  type DriverContext,
  DriverError,
  type Ref,
} from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { checkRef } from '#libs/drivers/network';
import { checkDiskSpec } from './disk-spec.js';
import type { Disks } from './disks.js';
import type { LongWork } from './long-work.js';
import { isAbandon } from './migration/arguments.js';
import { awaitDisk, refuseAwaited } from './migration/disk.js';
import { LoneDisks } from './migration/lone.js';
import { copySnapshot, createDisk, growDisk, makeAside, toDiskError, virtualSizeOf, wholeSectors } from './qcow2.js';
import type { SnapshotRecords } from './snapshot-records.js';
import type { Virsh } from './virsh.js';

export interface DiskParts {
  context: DriverContext;
  runner: Runner;
  virsh: Virsh;
  disks: Disks;
  snapshots: SnapshotRecords;
  /** Copies of snapshots, by the disk that is being made. */
  copies: LongWork;
}

/** Kind `disk`. Its images in use are those that files here build on. Verbs: `migrate` and `abandon`, with the contract's arguments. */
export function createDiskCapability(parts: DiskParts): Capability<DiskSpec, DiskStatus> {
  const { disks, snapshots, copies } = parts;
  const { installation } = parts.context;
  const lone = new LoneDisks(parts);
  return {
    kind: 'disk',
    after: [],
    async apply(ref, spec, signal) {
      checkRef(installation, ref);
      checkDiskSpec(spec);
      if (spec.incoming) {
        const status = await awaitDisk(parts, ref, spec, spec.incoming, signal);
        if (spec.incoming.alone) lone.expect(ref, spec.incoming);
        return status;
      }
      lone.forget(ref.id);
      await refuseAwaited(disks, ref.id);
      if (await isAsWanted(parts, ref.id, spec)) return { sizeBytes: spec.sizeBytes };
      try {
        await disks.folders.claim(ref);
        await disks.changing([ref.id], signal, () => disks.place(ref.id, spec));
        const { snapshot } = spec;
        if (snapshot && !existsSync(disks.path(ref.id))) {
          await copies.join(ref.id, signal, (own) => makeFromSnapshot(parts, ref, spec, snapshot, own));
        }
        await disks.changing([ref.id], signal, () => make(parts, ref, spec, signal));
      } catch (error) {
        throw toDiskError(error);
      }
      return { sizeBytes: spec.sizeBytes };
    },
    async remove(ref, signal) {
      checkRef(installation, ref);
      await copies.cancel(ref.id);
      lone.forget(ref.id);
      await disks.changing([ref.id], signal, async () => {
        const user = await disks.userOf(ref.id);
        if (user) throw new DriverError('in_use', `The disk is still attached to instance ${user}.`);
        if (await snapshots.anyOf(ref.id)) throw new DriverError('in_use', 'The disk still has snapshots.');
        await disks.release(ref.id);
      });
    },
    async inventory() {
      const found = [];
      for (const id of await disks.folders.ids()) {
        const ref = await disks.folders.ref(id);
        const awaited = (await disks.record(id))?.awaitedBytes;
        const sizeBytes = (await virtualSizeOf(disks.path(id))) ?? awaited ?? null;
        // Without its file it is being made, or lost: apply knows which.
        if (ref)
          found.push({ ref, status: { sizeBytes: sizeBytes ?? 0 }, ...(sizeBytes === null && { damaged: true }) });
      }
      return found;
    },
    interrupt(ref, verb, args) {
      if (verb === 'abandon' && isAbandon(args)) lone.interrupt(ref.id, args);
    },
    async operate(ref, verb, args, signal, progress = () => {}) {
      checkRef(installation, ref);
      if (verb === 'migrate') return lone.migrate(ref, args, signal, progress);
      if (verb === 'abandon' && isAbandon(args)) return { moved: false };
      throw new DriverError('unknown_verb', `Unknown verb ${verb}.`, { permanent: true });
    },
    async imagesInUse() {
      const used = new Set<string>();
      for (const id of await disks.folders.ids()) {
        const image = (await disks.record(id))?.image;
        if (image) used.add(image.sha256);
      }
      return used;
    },
  };
}

/** Of the right size and in use: nothing to do, and no need to wait for whoever works on it. */
async function isAsWanted({ disks }: DiskParts, id: string, spec: DiskSpec): Promise<boolean> {
  if ((await virtualSizeOf(disks.path(id))) !== wholeSectors(spec.sizeBytes)) return false;
  return (await disks.record(id))?.made === true && (await disks.openIn(id)) !== null;
}

/** What is there stays, larger if need be. */
async function converge(parts: DiskParts, ref: Ref, spec: DiskSpec, signal: AbortSignal): Promise<void> {
  const { disks, runner, virsh } = parts;
  const path = disks.path(ref.id);
  const record = await disks.record(ref.id);
  const sizeBytes = wholeSectors(spec.sizeBytes);
  const now = (await virtualSizeOf(path)) ?? 0;
  if (now > sizeBytes) {
    const message = `A disk cannot shrink: it has ${now} bytes, ${sizeBytes} are asked for.`;
    throw new DriverError('invalid_spec', message, { permanent: true });
  }
  const open = await disks.openIn(ref.id);
  if (!open) {
    await disks.ensureBacking(ref.id, signal);
    await growDisk(runner, path, sizeBytes);
  } else if (now < sizeBytes) {
    await virsh.run(['blockresize', open.domain, open.target, '--size', `${sizeBytes}B`]);
  }
  if (!record?.made) await disks.save(ref.id, { ...record, image: record?.image ?? spec.image, made: true });
}

/** Undo: removing the directory. */
async function make(parts: DiskParts, ref: Ref, spec: DiskSpec, signal: AbortSignal): Promise<void> {
  const { disks, runner } = parts;
  if (existsSync(disks.path(ref.id))) return converge(parts, ref, spec, signal);
  const { image } = spec;
  await begin(disks, ref, { image });
  const backing = image && (await disks.backing(ref.id, image, signal));
  signal.throwIfAborted();
  await makeAside(disks.path(ref.id), (part) => createDisk(runner, part, wholeSectors(spec.sizeBytes), backing));
  await disks.save(ref.id, { ...(await disks.record(ref.id)), image, made: true });
}

async function makeFromSnapshot(
  parts: DiskParts,
  ref: Ref,
  spec: DiskSpec,
  { diskId, snapshotId }: NonNullable<DiskSpec['snapshot']>,
  signal: AbortSignal,
): Promise<void> {
  const { disks, runner, snapshots } = parts;
  await disks.reading(diskId, ref.id, signal, async () => {
    if (existsSync(disks.path(ref.id))) return;
    const snapshot = await snapshots.load(snapshotId);
    if (!snapshot?.made || snapshot.diskId !== diskId) {
      throw new DriverError('snapshot_missing', `Snapshot ${snapshotId} is not on this node yet.`);
    }
    const sizeBytes = wholeSectors(spec.sizeBytes);
    if (sizeBytes < snapshot.virtualSizeBytes) {
      const message = `A disk cannot be smaller than its snapshot, which has ${snapshot.virtualSizeBytes} bytes.`;
      throw new DriverError('invalid_spec', message, { permanent: true });
    }
    const image = (await disks.record(diskId))?.image ?? null;
    await begin(disks, ref, { image });
    const backing = image && (await disks.backing(ref.id, image, signal));
    await makeAside(disks.path(ref.id), (path) =>
      copySnapshot(runner, { path: disks.path(diskId), snapshot: snapshotId }, { path, sizeBytes, backing }, signal),
    );
    await disks.save(ref.id, { ...(await disks.record(ref.id)), image, made: true });
  });
}

/** Notes what will be built on before it is fetched, so that nobody evicts it meanwhile. */
async function begin(disks: Disks, ref: Ref, record: { image: DiskSpec['image'] }): Promise<void> {
  const known = await disks.record(ref.id);
  if (known?.made) {
    const message =
      'The disk’s file is gone from this node. It is not made anew, since its content would be lost for good.';
    throw new DriverError('disk_lost', message, { permanent: true });
  }
  await disks.save(ref.id, { ...known, ...record, made: false });
}
