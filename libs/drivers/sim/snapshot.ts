/** Snapshots of the simulated machine's disks: the lineage of the content at one moment, made once. */
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type Capability,
  type DriverContext,
  DriverError,
  type Found,
  type Ref,
  type SnapshotSpec,
  type SnapshotStatus,
} from '#libs/drivers/contract';
import type { SimFaults } from './faults.js';
import { placeholderQcow2 } from './placeholder-qcow2.js';
import type { SharedContent } from './shared-content.js';
import type { SimDisk, SimSnapshot, SimState } from './state.js';

/** Bytes that any simulated snapshot is said to hold. */
const heldBytes = 65_536;

export class SimSnapshotCapability implements Capability<SnapshotSpec, SnapshotStatus> {
  readonly kind = 'snapshot';
  readonly after = ['disk'];

  constructor(
    private readonly state: SimState,
    private readonly faults: SimFaults,
    private readonly context: Pick<DriverContext, 'content' | 'stateDir'>,
    private readonly shared: SharedContent,
  ) {}

  async apply(ref: Ref, spec: SnapshotSpec, signal: AbortSignal): Promise<SnapshotStatus> {
    if (typeof spec?.diskId !== 'string') {
      throw new DriverError('invalid_spec', 'The snapshot has no disk.', { permanent: true });
    }
    await this.faults.strike('apply', ref, signal);
    signal.throwIfAborted();
    const disk = this.state.disks.get(spec.diskId);
    const before = this.state.snapshots.get(ref.id) ?? (disk && (await this.takeOver(disk, ref.id)));
    if (!disk && before) throw new DriverError('snapshot_lost', 'The snapshot’s disk is gone.', { permanent: true });
    if (!disk) throw new DriverError('disk_missing', `Disk ${spec.diskId} is not on this node yet.`);
    if (before) return status(before);
    const { image, lineage, sizeBytes } = disk;
    const made = { ref, diskId: spec.diskId, virtualSizeBytes: sizeBytes, image, lineage: [...lineage] };
    await this.shared.keepSnapshot(disk, made);
    this.state.snapshots.set(ref.id, made);
    await this.state.save();
    return status(made);
  }

  /** One that another node has made in a disk that is this node's now. */
  private async takeOver(disk: SimDisk, id: string): Promise<SimSnapshot | undefined> {
    const found = await this.shared.snapshot(disk, id);
    if (!found) return undefined;
    this.state.snapshots.set(id, found);
    await this.state.save();
    return found;
  }

  async remove(ref: Ref, signal: AbortSignal): Promise<void> {
    await this.faults.strike('remove', ref, signal);
    const disk = this.state.disks.get(this.state.snapshots.get(ref.id)?.diskId ?? '');
    if (disk) await this.shared.dropSnapshot(disk, ref.id);
    this.state.snapshots.delete(ref.id);
    await this.state.save();
  }

  async inventory(): Promise<Found<SnapshotStatus>[]> {
    await this.faults.strike('inventory', { kind: this.kind, id: '' });
    return [...this.state.snapshots.values()].map((snapshot) => ({ ref: snapshot.ref, status: status(snapshot) }));
  }

  /** Verbs: `restore`, `export` (args {operationId}). */
  async operate(ref: Ref, verb: string, args: unknown, signal: AbortSignal): Promise<object | undefined> {
    if (verb !== 'restore' && verb !== 'export') {
      throw new DriverError('unknown_verb', `A snapshot knows no “${verb}”.`, { permanent: true });
    }
    const snapshot = this.state.snapshots.get(ref.id);
    const disk = snapshot && this.state.disks.get(snapshot.diskId);
    if (!snapshot || !disk) {
      throw new DriverError('not_found', `There is no snapshot ${ref.id} on this node.`, { permanent: true });
    }
    await this.faults.strike('operate', ref, signal);
    return verb === 'restore' ? this.restore(snapshot, disk) : this.export(snapshot, args, signal);
  }

  private async restore(snapshot: SimSnapshot, disk: SimDisk): Promise<undefined> {
    const user = this.state.userOf(disk.ref.id);
    if (user && user.powerState !== 'stopped') {
      const message = `Instance ${user.spec.name} runs with the disk; stop it first.`;
      throw new DriverError('in_use', message, { permanent: true });
    }
    const lineage = [...snapshot.lineage, `restore:${snapshot.ref.id}`];
    await this.shared.keep({ ...disk, lineage });
    disk.lineage = lineage;
    await this.state.save();
  }

  private async export(snapshot: SimSnapshot, args: unknown, signal: AbortSignal): Promise<object> {
    const operationId = (args as { operationId?: unknown } | null)?.operationId;
    if (typeof operationId !== 'string' || !/^[A-Za-z0-9_-]{1,128}$/.test(operationId)) {
      throw new DriverError('invalid_spec', 'The export has no proper operation id.', { permanent: true });
    }
    const { virtualSizeBytes, lineage } = snapshot;
    const path = join(this.context.stateDir, `export-${snapshot.ref.id}.qcow2`);
    try {
      await writeFile(path, placeholderQcow2(virtualSizeBytes, [...lineage, `export:${snapshot.ref.id}`].join('\n')));
      const put = await this.context.content.put(operationId, path, signal);
      return { ...put, virtualSizeBytes, format: 'qcow2' };
    } finally {
      await rm(path, { force: true });
    }
  }
}

function status({ virtualSizeBytes }: SimSnapshot): SnapshotStatus {
  return { sizeBytes: heldBytes, virtualSizeBytes };
}
