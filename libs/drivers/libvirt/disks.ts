/**
 * The disks on this machine as the kinds disk, snapshot and instance share them: where each lies, what it was made from,
 * which machine it is attached to, and who may work on it now. Libvirt's word on what is attached counts; the note beside
 * a disk only says where to ask.
 */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { type DiskSpec, type DriverContext, DriverError, type ImageSpec } from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import type { SharedStorage } from '#libs/drivers/shared';
import { type Folders, openFolders, readJson, writeJson } from './folders.js';
import { Locks } from './locks.js';
import { domainName } from './places.js';
import { isActive } from './power.js';
import { type Backing, qcow2Info, repoint } from './qcow2.js';
import type { Virsh } from './virsh.js';

/** Written before the disk is made, and again when it is there. */
export interface DiskRecord {
  /** What it builds on; of a copy of a snapshot: what the snapshot's disk builds on. */
  image: ImageSpec | null;
  /** False: not yet for the first time. */
  made: boolean;
  /** The migration that brings its content, until it has; nothing uses it before. */
  incoming?: string;
  /** How large it will be; of one that is awaited. */
  awaitedBytes?: number;
  /** The migration that brought its content. */
  arrived?: string;
  /** Its file is on the shared storage, and whose it is to be there. */
  shared?: { node: string };
  /** It is awaited with its file staying there: the node that it comes from. */
  staysFrom?: string;
}

interface Attachment {
  instanceId: string;
}

export interface DisksParts {
  context: DriverContext;
  runner: Runner;
  virsh: Virsh;
  /** Undefined: this machine shares none. */
  storage: SharedStorage | undefined;
}

export class Disks {
  readonly folders: Folders;
  private readonly locks = new Locks();
  /** Those whose files are on the shared storage, as their records say. */
  private readonly onShared = new Set<string>();

  private constructor(private readonly parts: DisksParts) {
    this.folders = openFolders(parts.context.stateDir, 'disk');
  }

  /** Throws DriverError `storage_missing` when disks here lie on a shared storage that is not named any more. */
  static async open(parts: DisksParts): Promise<Disks> {
    const disks = new Disks(parts);
    for (const id of await disks.folders.ids()) if ((await disks.record(id))?.shared) disks.onShared.add(id);
    if (disks.onShared.size > 0) disks.shared();
    return disks;
  }

  /** Throws DriverError `storage_missing`. */
  private shared(): SharedStorage {
    if (this.parts.storage) return this.parts.storage;
    const message = 'Disks here lie on shared storage, and agent.storage names none.';
    throw new DriverError('storage_missing', message);
  }

  path(id: string): string {
    return join(this.onShared.has(id) ? this.shared().folder(id) : this.folders.of(id), 'disk.qcow2');
  }

  /** Where it is noted for the other machines that a snapshot is in a disk's file; null: they do not see it. */
  snapshotNote(id: string, snapshotId: string): string | null {
    return this.onShared.has(id) ? join(this.shared().folder(id), `snapshot-${snapshotId}.json`) : null;
  }

  /**
   * Notes that a disk's file is on the shared storage, and makes it this node's. One that is made stays where it is. Throws
   * DriverError `not_ours`, `storage_differs`.
   */
  async place(id: string, spec: DiskSpec): Promise<void> {
    const record = await this.record(id);
    const { shared } = spec;
    if (!shared) {
      if (!record?.shared) return;
      throw new DriverError('storage_differs', 'The disk lies on shared storage here.', { permanent: true });
    }
    const storage = this.shared();
    storage.check(shared);
    // Made here: nobody may have taken it since. Taking it again could be by a wish of long ago.
    if (record?.made) return storage.require(id, shared.node);
    const made = shared.takeFrom.length > 0;
    await this.save(id, { image: record?.image ?? spec.image, made: false, shared: { node: shared.node } });
    await storage.take(id, shared.node, shared.takeFrom);
    // From now on a file that is not there is lost, and not one that is to be made.
    if (made || existsSync(this.path(id))) {
      await this.save(id, { image: spec.image, made: true, shared: { node: shared.node } });
    }
  }

  /** Notes of a disk that comes with a move, before anything of it does. Throws as `place`, and `storage_differs` for a file that is not seen here. */
  async placeAwaited(id: string, { shared, image, sizeBytes, incoming }: DiskSpec): Promise<void> {
    const awaited = { image, made: false, incoming: incoming!.operationId, awaitedBytes: sizeBytes };
    if (!shared) return this.save(id, awaited);
    const storage = this.shared();
    storage.check(shared);
    const owner = await storage.ownerOf(id);
    const place = { shared: { node: shared.node } };
    if (!incoming?.stays) {
      await this.save(id, { ...awaited, ...place });
      return storage.take(id, shared.node, []);
    }
    if (owner === null || !existsSync(join(storage.folder(id), 'disk.qcow2'))) {
      const message = `The file of disk ${id} is not there on the shared storage “${storage.name}” as this node sees it.`;
      throw new DriverError('storage_differs', message);
    }
    await this.save(id, { ...awaited, ...place, staysFrom: owner });
  }

  /** The disk's file is this node's from now on: the one that had it has let go of it. Again: the same. */
  async takeOver(id: string, { shared, staysFrom }: DiskRecord): Promise<void> {
    if (shared && staysFrom !== undefined) await this.shared().take(id, shared.node, [staysFrom]);
  }

  /** Whether its file is another node's by now. */
  async isOthers(id: string): Promise<boolean> {
    const shared = (await this.record(id))?.shared;
    return shared !== undefined && (await this.shared().ownerOf(id)) !== shared.node;
  }

  /** Removes the disk with all that is noted of it; a file on shared storage only if it is this node's. */
  async release(id: string): Promise<void> {
    const record = await this.record(id);
    if (record?.shared) await this.shared().release(id, record.shared.node);
    await this.folders.release(id);
    this.onShared.delete(id);
  }

  /** Whose disk a path is; null: not one of ours. */
  idOf(path: string): string | null {
    const id = path.split('/').at(-2) ?? '';
    return path === this.path(id) ? id : null;
  }

  record(id: string): Promise<DiskRecord | null> {
    return readJson<DiskRecord>(join(this.folders.of(id), 'disk.json'));
  }

  async save(id: string, record: DiskRecord): Promise<void> {
    if (record.shared) this.onShared.add(id);
    else this.onShared.delete(id);
    await writeJson(join(this.folders.of(id), 'disk.json'), record);
  }

  /** While a machine starts with them, or is given them, nobody else does anything to them. */
  using<T>(ids: readonly string[], signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const keys = ids.map((id) => `use ${id}`);
    return this.locks.hold(keys, signal, work);
  }

  /** Alone with these disks: their size, their snapshots and what they are attached to stay as they are. */
  changing<T>(ids: readonly string[], signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const keys = ids.flatMap((id) => [`use ${id}`, `snapshots ${id}`]);
    return this.locks.hold(keys, signal, work);
  }

  /** What is noted of a disk that comes is read and written in one go: it may arrive while it is awaited anew. Takes moments. */
  noting<T>(id: string, work: () => Promise<T>): Promise<T> {
    return this.locks.hold([`note ${id}`], new AbortController().signal, work);
  }

  /**
   * While a snapshot of `from` is read, which may take long: machines start and stop with it meanwhile, but nobody makes
   * or takes a snapshot. `to`: a disk that is being made.
   */
  reading<T>(from: string, to: string | null, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const keys = to === null ? [] : [`use ${to}`, `snapshots ${to}`];
    return this.locks.hold([`snapshots ${from}`, ...keys], signal, work);
  }

  /**
   * Notes, before anything is attached, to which machine. Throws `disk_missing`, or `in_use` when another has it.
   * @param operationId the migration that brings both.
   */
  async attach(id: string, instanceId: string, operationId?: string): Promise<void> {
    if (!existsSync(this.path(id))) throw new DriverError('disk_missing', `Disk ${id} is not on this node yet.`);
    const incoming = (await this.record(id))?.incoming;
    if (incoming !== operationId) throw new DriverError('disk_missing', `The content of disk ${id} has not come yet.`);
    if (operationId === undefined && (await this.isOthers(id))) {
      throw new DriverError('not_ours', `Disk ${id} on the shared storage is another node’s.`);
    }
    const user = await this.userOf(id);
    if (user === instanceId) return;
    if (user) throw new DriverError('in_use', `Disk ${id} is still attached to instance ${user}.`);
    await writeJson(this.attachment(id), { instanceId } satisfies Attachment);
  }

  /** Forgets what was noted, after the machine has let go of it. */
  async detach(id: string, instanceId: string): Promise<void> {
    const noted = await readJson<Attachment>(this.attachment(id));
    if (noted?.instanceId === instanceId) await rm(this.attachment(id), { force: true });
  }

  /** Disks that are noted as this machine's. */
  async attachedTo(instanceId: string): Promise<string[]> {
    const mine: string[] = [];
    for (const id of await this.folders.ids()) {
      if ((await readJson<Attachment>(this.attachment(id)))?.instanceId === instanceId) mine.push(id);
    }
    return mine;
  }

  /** Id of the machine that really has it, on or off. */
  async userOf(id: string): Promise<string | null> {
    const noted = await readJson<Attachment>(this.attachment(id));
    if (!noted) return null;
    const domain = await this.parts.virsh.domain(this.domainOf(noted.instanceId));
    return domain?.disks.some(({ path }) => path === this.path(id)) ? noted.instanceId : null;
  }

  /** The machine that is on and has it open: its domain, and the disk's target in it. Null: the file is free. */
  async openIn(id: string): Promise<{ domain: string; target: string } | null> {
    const noted = await readJson<Attachment>(this.attachment(id));
    if (!noted) return null;
    const name = this.domainOf(noted.instanceId);
    const domain = await this.parts.virsh.domain(name);
    const disk = domain?.disks.find(({ path }) => path === this.path(id));
    return domain && disk && isActive(domain.state) ? { domain: name, target: disk.name } : null;
  }

  /**
   * The image's copy that a disk can build on, fetched if need be: on this machine, or beside the disk on the shared storage,
   * where every node finds it by the same way from the disk.
   */
  async backing(id: string, image: ImageSpec, signal: AbortSignal): Promise<Backing> {
    const { sha256, sizeBytes, format } = image;
    const fetched = () => this.parts.context.images.path(image, signal);
    if (!this.onShared.has(id)) return { path: await fetched(), format };
    const storage = this.shared();
    if (!(await storage.hasImage(sha256, sizeBytes))) await storage.putImage(sha256, await fetched());
    return { path: join(storage.images, sha256), format, asWritten: `../../images/${sha256}` };
  }

  /** Has the image there and the disk point to it, which may lie elsewhere than before. Only for a disk that is free. */
  async ensureBacking(id: string, signal: AbortSignal): Promise<void> {
    const image = (await this.record(id))?.image;
    if (!image) return;
    const backing = await this.backing(id, image, signal);
    const info = await qcow2Info(this.parts.runner, this.path(id));
    if (!info.backing || resolve(info.backing) !== backing.path)
      await repoint(this.parts.runner, this.path(id), backing);
  }

  private attachment(id: string): string {
    return join(this.folders.of(id), 'attachment.json');
  }

  private domainOf(instanceId: string): string {
    return domainName(this.parts.context.installation, instanceId);
  }
}
