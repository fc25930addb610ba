/** Disks of the simulated machine: no bytes, but a size, where their content came from, and the same refusals. */
import {
  type AbandonArguments,
  type Capability,
  type DiskSpec,
  type DiskStatus,
  DriverError,
  type Found,
  type ImageSource,
  type Incoming,
  type MigrateArguments,
  type MigrationOutcome,
  type Ref,
} from '#libs/drivers/contract';
import type { SimFaults } from './faults.js';
import type { SimLoneDisks } from './lone-disks.js';
import type { SharedContent } from './shared-content.js';
import type { SimDisk, SimState } from './state.js';

export class SimDiskCapability implements Capability<DiskSpec, DiskStatus> {
  readonly kind = 'disk';
  readonly after = [];

  constructor(
    private readonly state: SimState,
    private readonly faults: SimFaults,
    private readonly images: ImageSource | undefined,
    private readonly shared: SharedContent,
    private readonly lone: SimLoneDisks,
  ) {}

  async apply(ref: Ref, spec: DiskSpec, signal: AbortSignal): Promise<DiskStatus> {
    if (!Number.isSafeInteger(spec?.sizeBytes) || spec.sizeBytes < 1 || (spec.image && spec.snapshot)) {
      throw new DriverError('invalid_spec', 'The disk has no size, or is made from two things.', { permanent: true });
    }
    await this.faults.strike('apply', ref, signal);
    const before = this.state.disks.get(ref.id) ?? (await this.takeOver(ref, spec));
    if (spec.incoming) return this.wait(ref, spec, spec.incoming, before);
    if (before?.incoming) {
      throw new DriverError('content_missing', 'The disk’s content has not come from the other node.');
    }
    const smallest = before?.sizeBytes ?? this.sourceBytes(spec);
    if (spec.sizeBytes < smallest) {
      const message = `A disk cannot shrink: it has ${smallest} bytes, ${spec.sizeBytes} are asked for.`;
      throw new DriverError('invalid_spec', message, { permanent: true });
    }
    if (!before && spec.image) await this.images?.path(spec.image, signal);
    signal.throwIfAborted();
    const disk = {
      ...(this.state.disks.get(ref.id) ?? before ?? this.make(ref, spec)),
      spec,
      sizeBytes: spec.sizeBytes,
    };
    await this.shared.keep(disk);
    this.lone.forget(before);
    this.state.disks.set(ref.id, disk);
    await this.state.save();
    return { sizeBytes: spec.sizeBytes };
  }

  /** One that is on shared storage already becomes this node's, with what it holds. */
  private async takeOver(ref: Ref, spec: DiskSpec): Promise<SimDisk | undefined> {
    const { shared, incoming } = spec;
    if (!shared || incoming) return undefined;
    await this.shared.on(shared).take(ref.id, shared.node, shared.takeFrom);
    const content = await this.shared.read(ref.id, shared.takeFrom.length > 0);
    return content ? { ref, spec, ...content, shared: { node: shared.node } } : undefined;
  }

  /** Nothing is there yet, and nothing is made. */
  private async wait(ref: Ref, spec: DiskSpec, incoming: Incoming, before: SimDisk | undefined): Promise<DiskStatus> {
    const { operationId, stays, alone } = incoming;
    if (alone) this.lone.expect(ref.id, incoming);
    const status = { sizeBytes: spec.sizeBytes };
    if (before?.spec.incoming?.operationId === operationId) return status;
    if (before) throw new DriverError('in_use', 'An older copy of the disk is still on this node; it goes first.');
    const { sizeBytes, image, shared } = spec;
    if (shared) {
      const storage = this.shared.on(shared);
      if (stays) await this.shared.read(ref.id, true);
      else await storage.take(ref.id, shared.node, []);
    }
    const place = shared && { shared: { node: shared.node } };
    this.state.disks.set(ref.id, { ref, spec, sizeBytes, image, lineage: [], incoming: operationId, ...place });
    await this.state.save();
    return status;
  }

  async remove(ref: Ref, signal: AbortSignal): Promise<void> {
    await this.faults.strike('remove', ref, signal);
    const user = this.state.userOf(ref.id);
    if (user) throw new DriverError('in_use', `The disk is still attached to instance ${user.spec.name}.`);
    if ([...this.state.snapshots.values()].some(({ diskId }) => diskId === ref.id)) {
      throw new DriverError('in_use', 'The disk still has snapshots.');
    }
    const disk = this.state.disks.get(ref.id);
    this.lone.forget(disk);
    if (disk) await this.shared.release(disk);
    this.state.disks.delete(ref.id);
    await this.state.save();
  }

  async inventory(): Promise<Found<DiskStatus>[]> {
    await this.faults.strike('inventory', { kind: this.kind, id: '' });
    return [...this.state.disks.values()].map(({ ref, sizeBytes }) => ({ ref, status: { sizeBytes } }));
  }

  interrupt(ref: Ref, verb: string, args: unknown): void {
    if (verb === 'abandon') this.lone.interrupt(ref.id, args as AbandonArguments);
  }

  /** Verbs: `migrate` and `abandon`, with the contract's arguments. */
  async operate(ref: Ref, verb: string, args: unknown, signal: AbortSignal): Promise<MigrationOutcome> {
    if (verb === 'migrate') return this.lone.migrate(ref, args as MigrateArguments, signal);
    if (verb === 'abandon') return { moved: false };
    throw new DriverError('unknown_verb', `A disk knows no “${verb}”.`, { permanent: true });
  }

  async imagesInUse(): Promise<ReadonlySet<string>> {
    return new Set([...this.state.disks.values()].flatMap(({ image }) => (image ? [image.sha256] : [])));
  }

  private sourceBytes({ image, snapshot }: DiskSpec): number {
    if (image) return image.virtualSizeBytes;
    return snapshot ? this.source(snapshot.snapshotId).virtualSizeBytes : 0;
  }

  private make(ref: Ref, spec: DiskSpec): SimDisk {
    const made = { ref, spec, sizeBytes: spec.sizeBytes, ...(spec.shared && { shared: { node: spec.shared.node } }) };
    if (!spec.snapshot) {
      return { ...made, image: spec.image, lineage: [spec.image ? `image:${spec.image.sha256}` : 'empty'] };
    }
    const { image, lineage } = this.source(spec.snapshot.snapshotId);
    return { ...made, image, lineage: [...lineage, `snapshot:${spec.snapshot.snapshotId}`] };
  }

  private source(snapshotId: string) {
    const snapshot = this.state.snapshots.get(snapshotId);
    if (!snapshot) throw new DriverError('snapshot_missing', `Snapshot ${snapshotId} is not on this node yet.`);
    return snapshot;
  }
}
