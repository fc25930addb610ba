/**
 * The disks on this machine as the kinds disk, snapshot and instance share them: where each lies, what it was made from,
 * which machine it is attached to, and who may work on it now. Libvirt's word on what is attached counts; the note beside
 * a disk only says where to ask.
 */
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type DriverContext, DriverError, type ImageSpec } from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
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
}

interface Attachment {
  instanceId: string;
}

export interface DisksParts {
  context: DriverContext;
  runner: Runner;
  virsh: Virsh;
}

export class Disks {
  readonly folders: Folders;
  private readonly locks = new Locks();

  constructor(private readonly parts: DisksParts) {
    this.folders = openFolders(parts.context.stateDir, 'disk');
  }

  path(id: string): string {
    return join(this.folders.of(id), 'disk.qcow2');
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

  /** The image's copy on this machine, fetched if need be. */
  async backing(image: ImageSpec, signal: AbortSignal): Promise<Backing> {
    return { path: await this.parts.context.images.path(image, signal), format: image.format };
  }

  /** Has the image there and the disk point to it, which may lie elsewhere than before. Only for a disk that is free. */
  async ensureBacking(id: string, signal: AbortSignal): Promise<void> {
    const image = (await this.record(id))?.image;
    if (!image) return;
    const backing = await this.backing(image, signal);
    const info = await qcow2Info(this.parts.runner, this.path(id));
    if (info.backing !== backing.path) await repoint(this.parts.runner, this.path(id), backing);
  }

  private attachment(id: string): string {
    return join(this.folders.of(id), 'attachment.json');
  }

  private domainOf(instanceId: string): string {
    return domainName(this.parts.context.installation, instanceId);
  }
}
