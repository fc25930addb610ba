/**
 * Storage that several machines see the same files of (NFS, a cluster's file system). A disk has a folder there with its
 * file, and a note whose it is: one machine's at a time, which alone opens, changes or removes it. Nobody lists what is
 * there: a machine knows of the disks that it was told of, so that another's are never taken for left over.
 */
import { randomUUID } from 'node:crypto';
import { chmod, copyFile, link, mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { DriverError, type SharedPlace } from '#libs/drivers/contract';

export interface SharedStorageOptions {
  /** As all machines that see its files call it. */
  name: string;
  /** Where it is on this machine. */
  dir: string;
}

interface Identity {
  name: string;
  id: string;
}

export class SharedStorage {
  private constructor(
    readonly name: string,
    readonly id: string,
    /** This installation's on it. */
    readonly dir: string,
  ) {}

  /**
   * Finds out which storage it is. Only a machine that has never seen it makes it one: where it was there before and is
   * not now, it is not mounted. Throws DriverError `storage_missing`, `storage_differs`.
   */
  static async open(
    { name, dir }: SharedStorageOptions,
    { installation, stateDir }: { installation: string; stateDir: string },
  ): Promise<SharedStorage> {
    const own = join(dir, `rhyzome-${installation}`);
    const remembered = join(stateDir, 'shared-storage.json');
    const known = await readJson<Identity>(remembered);
    if (!(await isFolder(dir))) throw missing(name, `there is no folder ${dir}`);
    const marker = join(own, 'storage.json');
    const found = await identityOf(marker, known ? undefined : { name, id: randomUUID() });
    if (!found) throw missing(name, `${marker} is not there: is it mounted?`);
    if (found.name !== name || (known && known.name === name && known.id !== found.id)) {
      const other = `The shared storage at ${dir} is “${found.name}” ${found.id}`;
      throw new DriverError('storage_differs', `${other}, not “${name}”${known ? ` ${known.id}` : ''}.`, {
        permanent: true,
      });
    }
    await writeJson(remembered, found);
    return new SharedStorage(name, found.id, own);
  }

  /** The folder of a disk there. */
  folder(diskId: string): string {
    return join(this.dir, 'disk', diskId);
  }

  /** The images that disks there build on. */
  get images(): string {
    return join(this.dir, 'images');
  }

  /** Whose a disk's file is, by the node's id; null: there is none. */
  async ownerOf(diskId: string): Promise<string | null> {
    return (await readJson<{ node: string }>(this.note(diskId)))?.node ?? null;
  }

  /** Throws DriverError `storage_differs` when this is not the storage that is meant. */
  check({ storage, storageId }: SharedPlace): void {
    if (storage === this.name && storageId === this.id) return;
    const message = `The disk lies on the shared storage “${storage}” ${storageId}; here is “${this.name}” ${this.id}.`;
    throw new DriverError('storage_differs', message);
  }

  /**
   * Makes a disk's file this node's: one that is nobody's yet, its own, or one that is taken from a node that may have it
   * no longer. Again: the same. Undo: `release`. Throws DriverError `not_ours`.
   */
  async take(diskId: string, node: string, from: readonly string[]): Promise<void> {
    const owner = await this.ownerOf(diskId);
    if (owner === node) return;
    if (owner !== null && !from.includes(owner)) throw notOurs(diskId, owner);
    await mkdir(this.folder(diskId), { recursive: true });
    // The hypervisor's own user must get through to the file, and nobody may list.
    for (const each of [dirname(this.folder(diskId)), this.folder(diskId)]) await chmod(each, 0o711);
    await writeJson(this.note(diskId), { node });
  }

  /** Throws DriverError `not_ours` unless the disk's file is this node's. */
  async require(diskId: string, node: string): Promise<void> {
    const owner = await this.ownerOf(diskId);
    if (owner !== node) throw notOurs(diskId, owner);
  }

  /** Removes a disk's file with all that is beside it, if it is this node's; another's is left alone. Nothing there is success. */
  async release(diskId: string, node: string): Promise<void> {
    if ((await this.ownerOf(diskId)) !== node) return;
    // The note goes last, so that a removal that was cut short goes on.
    await rm(join(this.folder(diskId), 'disk.qcow2'), { force: true });
    await rm(this.folder(diskId), { recursive: true, force: true });
  }

  async hasImage(sha256: string, sizeBytes: number): Promise<boolean> {
    return (await sizeOf(join(this.images, sha256))) === sizeBytes;
  }

  /** Has an image there for the disks that build on it. It stays when the last of them goes. */
  async putImage(sha256: string, from: string): Promise<void> {
    await mkdir(this.images, { recursive: true });
    await chmod(this.images, 0o711);
    const aside = join(this.images, `${sha256}.${randomUUID()}`);
    try {
      await copyFile(from, aside);
      await chmod(aside, 0o644);
      await syncPath(aside);
      await rename(aside, join(this.images, sha256));
    } finally {
      await rm(aside, { force: true });
    }
    await syncPath(this.images);
  }

  private note(diskId: string): string {
    return join(this.folder(diskId), 'owner.json');
  }
}

/** Written aside under a name of its own, then renamed: two machines may write at once. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  const aside = `${path}.${randomUUID()}`;
  await writeFile(aside, JSON.stringify(value), { flush: true });
  await rename(aside, path);
  await syncPath(dirname(path));
}

async function syncPath(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Null: there is no such file. */
export async function readJson<T>(path: string): Promise<T | null> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** What the storage says that it is. The first machine says so; of several at once, one of them. */
async function identityOf(marker: string, first: Identity | undefined): Promise<Identity | null> {
  const found = await readJson<Identity>(marker);
  if (found || !first) return found;
  await mkdir(dirname(marker), { recursive: true });
  await chmod(dirname(marker), 0o711);
  const aside = `${marker}.${first.id}`;
  await writeFile(aside, JSON.stringify(first), { flush: true });
  try {
    await link(aside, marker);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  await rm(aside, { force: true });
  return readJson<Identity>(marker);
}

async function isFolder(path: string): Promise<boolean> {
  return (await statusOf(path))?.isDirectory() ?? false;
}

async function sizeOf(path: string): Promise<number | undefined> {
  return (await statusOf(path))?.size;
}

async function statusOf(path: string) {
  try {
    return await stat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function missing(name: string, why: string): DriverError {
  return new DriverError('storage_missing', `The shared storage “${name}” is not there: ${why}`);
}

function notOurs(diskId: string, owner: string | null): DriverError {
  const whose = owner === null ? 'nobody’s' : `node ${owner}’s`;
  return new DriverError('not_ours', `The file of disk ${diskId} on the shared storage is ${whose}.`);
}
