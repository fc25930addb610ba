/**
 * Disk files through `qemu-img` (qemu-img(1)): always qcow2 and always named so, with the format of what they build on
 * named, too: a raw image may hold what looks like another format. Files that a machine has open are only read here.
 */
import { chmod, open, rename, rm, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { DriverError } from '#libs/drivers/contract';
import { CommandError, type Runner } from '#libs/drivers/host';
import { sync } from './folders.js';

/** The file that another one builds on. */
export interface Backing {
  path: string;
  format: 'qcow2' | 'raw';
  /** What stands in the file that builds on it: a way from that file's folder; absent: `path`. */
  asWritten?: string;
}

export interface Qcow2Info {
  virtualSizeBytes: number;
  /** What it takes on this machine. */
  actualSizeBytes: number;
  backing: string | null;
  /** Names of its internal snapshots. */
  snapshots: string[];
}

/** Copying may take long; the caller's signal ends it earlier. */
const copyLimitMs = 6 * 60 * 60 * 1000;
const quickLimitMs = 60_000;

/** Room that work on a disk's tables wants to find: what they may grow by, and some more. */
const spareBytes = 4 * 1024 ** 2;

/** Sizes of disks are whole sectors. */
export function wholeSectors(bytes: number): number {
  return Math.ceil(bytes / 512) * 512;
}

/** Throws DriverError `disk_full` when there is no room for the tables of a disk of this size. */
export async function requireRoom(dir: string, virtualSizeBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(dir);
  // An L1 table has 8 bytes for 512 MiB; a snapshot copies it.
  if (bavail * bsize < spareBytes + (virtualSizeBytes / 512 / 1024 ** 2) * 16) throw diskFull(true);
}

export async function qcow2Info(runner: Runner, path: string): Promise<Qcow2Info> {
  const info = JSON.parse(await image(runner, ['info', '-U', '--output=json', '-f', 'qcow2', path])) as {
    'virtual-size': number;
    'actual-size': number;
    'full-backing-filename'?: string;
    snapshots?: { name: string }[];
  };
  return {
    virtualSizeBytes: info['virtual-size'],
    actualSizeBytes: info['actual-size'],
    backing: info['full-backing-filename'] ?? null,
    snapshots: (info.snapshots ?? []).map(({ name }) => name),
  };
}

/** Size of the disk, from the file's header alone (QEMU's docs/interop/qcow2). Null: no such file. */
export async function virtualSizeOf(path: string): Promise<number | null> {
  const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return null;
    throw error;
  });
  if (!file) return null;
  try {
    const header = Buffer.alloc(32);
    await file.read(header, 0, header.length, 0);
    if (header.readUInt32BE(0) !== 0x5146_49fb) throw new DriverError('disk_failed', 'The disk’s file is no qcow2.');
    return Number(header.readBigUInt64BE(24));
  } finally {
    await file.close();
  }
}

/** Makes `path`, whole or not at all: `make` writes another file, which takes the name when it is on the disk. */
export async function makeAside(path: string, make: (part: string) => Promise<void>): Promise<void> {
  const part = `${path}.new`;
  await rm(part, { force: true });
  try {
    await make(part);
    // The hypervisor gives it to its own user; nobody else may read a tenant's data.
    await chmod(part, 0o600);
    await sync(part);
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true });
    throw toDiskError(error);
  }
  await sync(dirname(path));
}

export async function createDisk(runner: Runner, path: string, sizeBytes: number, backing: Backing | null) {
  const on = backing ? ['-F', backing.format, '-b', backing.asWritten ?? backing.path] : [];
  await image(runner, ['create', '-q', '-f', 'qcow2', ...on, path, String(sizeBytes)]);
}

/**
 * Copies the content that `from` had at a snapshot; only what differs from `backing`. `-U`: a machine may be writing to
 * it, which never changes what a snapshot holds.
 */
export async function copySnapshot(
  runner: Runner,
  source: { path: string; snapshot: string },
  target: { path: string; sizeBytes: number; backing: Backing | null; compress?: boolean },
  signal: AbortSignal,
): Promise<void> {
  const { path, sizeBytes, backing, compress } = target;
  const on = backing ? ['-F', backing.format, '-B', backing.path] : [];
  const from = ['-U', '-f', 'qcow2', '-l', `snapshot.name=${source.snapshot}`];
  const argv = ['convert', '-q', ...(compress ? ['-c'] : []), ...from, '-O', 'qcow2', ...on, source.path, path];
  await image(runner, argv, signal);
  // The copy has the size that the source's disk has now, not the one that it had then.
  const { virtualSizeBytes } = await qcow2Info(runner, path);
  if (virtualSizeBytes > sizeBytes) {
    await image(runner, ['resize', '-q', '--shrink', '-f', 'qcow2', path, String(sizeBytes)]);
  } else await growDisk(runner, path, sizeBytes);
  if (backing?.asWritten) await repoint(runner, path, backing);
}

/** Only for a disk that no machine has open; one that is as large already stays. */
export async function growDisk(runner: Runner, path: string, sizeBytes: number): Promise<void> {
  const { virtualSizeBytes } = await qcow2Info(runner, path);
  if (virtualSizeBytes >= sizeBytes) return;
  await image(runner, ['resize', '-q', '-f', 'qcow2', path, String(sizeBytes)]);
}

/** Tells the file where what it builds on lies now. Only for a disk that no machine has open. */
export async function repoint(runner: Runner, path: string, backing: Backing): Promise<void> {
  await image(runner, [
    'rebase',
    '-q',
    '-u',
    '-f',
    'qcow2',
    '-F',
    backing.format,
    '-b',
    backing.asWritten ?? backing.path,
    path,
  ]);
}

/** Internal snapshots of a disk that no machine has open: made (`c`), deleted (`d`), applied (`a`). */
export async function snapshotOffline(runner: Runner, what: 'c' | 'd' | 'a', name: string, path: string) {
  // This command takes no format but in this form, in which a comma is doubled.
  const file = `driver=qcow2,file.driver=file,file.filename=${path.replaceAll(',', ',,')}`;
  await image(runner, ['snapshot', '-q', `-${what}`, name, '--image-opts', file]);
}

async function image(runner: Runner, argv: readonly string[], signal?: AbortSignal): Promise<string> {
  try {
    const timeoutMs = argv[0] === 'convert' ? copyLimitMs : quickLimitMs;
    return await runner.run(['qemu-img', ...argv], { timeoutMs, ...(signal && { signal }) });
  } catch (error) {
    throw toDiskError(error);
  }
}

/**
 * What a failure about a disk means. `permanent`: whether a full disk is told at once, because somebody waits for an
 * answer; what must come about some time is tried again instead.
 */
export function toDiskError(error: unknown, permanent = true): unknown {
  const text = error instanceof CommandError ? error.stderr : error instanceof Error ? error.message : '';
  const isFull = (error as NodeJS.ErrnoException | null)?.code === 'ENOSPC' || /No space left/i.test(text);
  if (isFull) return diskFull(permanent, error);
  if (!(error instanceof CommandError)) return error;
  if (/Failed to get .*lock/i.test(text)) return new DriverError('in_use', 'The disk is in use.', { cause: error });
  return new DriverError('disk_failed', `Work on the disk failed: ${error.message}`, { cause: error });
}

function diskFull(permanent: boolean, cause?: unknown): DriverError {
  return new DriverError('disk_full', 'There is no room left on the node’s disk.', { permanent, cause });
}
