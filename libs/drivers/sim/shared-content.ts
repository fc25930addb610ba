/**
 * Content of simulated disks on storage that several simulated nodes share: what stands in a file there counts, whatever a
 * node has in its memory of it. Whose a disk is, the storage's own note says.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { DriverError, type ImageSpec, type SharedPlace } from '#libs/drivers/contract';
import { readJson, type SharedStorage, writeJson } from '#libs/drivers/shared';
import type { SimDisk, SimSnapshot } from './state.js';

export interface Content {
  sizeBytes: number;
  image: ImageSpec | null;
  lineage: string[];
}

export class SharedContent {
  constructor(private readonly storage: SharedStorage | undefined) {}

  /** The storage that a spec means. Throws DriverError `storage_missing`, `storage_differs`. */
  on(place: SharedPlace): SharedStorage {
    const storage = this.require();
    storage.check(place);
    return storage;
  }

  /** What a disk holds there; null: it was not made yet. Throws DriverError `disk_lost` when it must have been. */
  async read(diskId: string, wasMade: boolean): Promise<Content | null> {
    const content = await readJson<Content>(this.file(diskId));
    if (content || !wasMade) return content;
    throw new DriverError('disk_lost', 'The disk’s file is gone from the shared storage.', { permanent: true });
  }

  /** Writes what a disk holds; nothing for one that is on the node's own. Throws DriverError `not_ours`. */
  async keep({ ref, shared, sizeBytes, image, lineage }: SimDisk): Promise<void> {
    if (!shared) return;
    await this.require().require(ref.id, shared.node);
    await writeJson(this.file(ref.id), { sizeBytes, image, lineage } satisfies Content);
  }

  /** Takes a disk away with its snapshots, unless it is another node's. */
  async release({ ref, shared }: SimDisk): Promise<void> {
    if (shared) await this.require().release(ref.id, shared.node);
  }

  /** Whether a node may not touch what is in the disk: it is another's by now. */
  async isOthers({ ref, shared }: SimDisk): Promise<boolean> {
    return shared !== undefined && (await this.require().ownerOf(ref.id)) !== shared.node;
  }

  /** A snapshot that another node has made of a disk there. */
  async snapshot({ ref, shared }: SimDisk, id: string): Promise<SimSnapshot | null> {
    return shared ? readJson<SimSnapshot>(this.snapshotFile(ref.id, id)) : null;
  }

  async keepSnapshot({ ref, shared }: SimDisk, snapshot: SimSnapshot): Promise<void> {
    if (shared) await writeJson(this.snapshotFile(ref.id, snapshot.ref.id), snapshot);
  }

  async dropSnapshot(disk: SimDisk, id: string): Promise<void> {
    if (disk.shared && !(await this.isOthers(disk))) await rm(this.snapshotFile(disk.ref.id, id), { force: true });
  }

  private file(diskId: string): string {
    return join(this.require().folder(diskId), 'content.json');
  }

  private snapshotFile(diskId: string, id: string): string {
    return join(this.require().folder(diskId), `snapshot-${id}.json`);
  }

  private require(): SharedStorage {
    if (this.storage) return this.storage;
    throw new DriverError('storage_missing', 'The disk lies on shared storage, and this node names none.');
  }
}
