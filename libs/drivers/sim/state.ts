/**
 * What the simulated machine holds, durable in one JSON file, so that an agent that starts again finds its machines
 * running. Changes that happen together are written together.
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import type {
  DiskSpec,
  ImageSpec,
  Incoming,
  InstanceSpec,
  InstanceStatus,
  MigrateArguments,
  NetworkSpec,
  Ref,
} from '#libs/drivers/contract';

export interface SimNetwork {
  ref: Ref;
  spec: NetworkSpec;
  /** Nothing goes in or out of its router, until it is applied again. */
  isClosed?: boolean;
}

export interface SimDisk {
  ref: Ref;
  spec: DiskSpec;
  sizeBytes: number;
  /** The image that its content builds on; of a disk made from a snapshot: that of the snapshot's disk. */
  image: ImageSpec | null;
  /** What became of its content, oldest first: `empty`, `image:SHA256`, `snapshot:ID`, `restore:ID`. */
  lineage: string[];
  /** The migration that brings its content, until it has. */
  incoming?: string;
  /** Its content is on the shared storage, and whose it is to be there. */
  shared?: { node: string };
}

export interface SimSnapshot {
  ref: Ref;
  diskId: string;
  virtualSizeBytes: number;
  image: ImageSpec | null;
  /** Its disk's at that moment. */
  lineage: string[];
}

export interface SimInstance {
  ref: Ref;
  spec: InstanceSpec;
  powerState: InstanceStatus['powerState'];
  /** How often its guest has booted. */
  boots: number;
  /** When it was last switched on (ms since 1970). */
  startedAt: number;
  /** On its way to another node; `gone`: it is off here, and that is said there; `releasing`: it is let go there. */
  outgoing?: { args: MigrateArguments; phase: 'sending' | 'gone' | 'releasing' | 'released'; wasRunning: boolean };
  /** On its way from another node. `left`: that one has said that it is off there; `closed`: that one is heard no more. */
  awaited?: Incoming & { phase: 'waiting' | 'arrived' | 'released'; left?: true; closed?: true };
}

type Maps = 'networks' | 'disks' | 'snapshots' | 'instances';

export class SimState {
  readonly networks = new Map<string, SimNetwork>();
  readonly disks = new Map<string, SimDisk>();
  readonly snapshots = new Map<string, SimSnapshot>();
  readonly instances = new Map<string, SimInstance>();
  private writing: Promise<void> | undefined;
  private queued: Promise<void> | undefined;

  private constructor(
    private readonly file: string,
    private readonly isKept: boolean,
  ) {}

  /** Nothing there is an empty machine; a file that cannot be read is an error. `isKept` false: it is only read. */
  static async load(file: string, isKept = true): Promise<SimState> {
    const state = new SimState(file, isKept);
    const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return '{}';
      throw error;
    });
    const held = JSON.parse(text) as { [map in Maps]?: [string, never][] };
    for (const map of ['networks', 'disks', 'snapshots', 'instances'] as const) {
      for (const [id, entry] of held[map] ?? []) state[map].set(id, entry);
    }
    return state;
  }

  /** The instance that a disk is attached to. */
  userOf(diskId: string): SimInstance | undefined {
    return [...this.instances.values()].find(({ spec }) => spec.disks.some((disk) => disk.diskId === diskId));
  }

  /** Resolves when all that is in memory now is in the file. */
  save(): Promise<void> {
    if (!this.isKept) return Promise.resolve();
    // One write under way, one queued behind it that takes all changes until it starts.
    // (A write that failed has told its own callers.)
    this.queued ??= (this.writing ?? Promise.resolve())
      .catch(() => {})
      .then(() => {
        this.queued = undefined;
        this.writing = this.write().finally(() => {
          this.writing = undefined;
        });
        return this.writing;
      });
    return this.queued;
  }

  private async write(): Promise<void> {
    const { networks, disks, snapshots, instances } = this;
    const held = { networks: [...networks], disks: [...disks], snapshots: [...snapshots], instances: [...instances] };
    const aside = `${this.file}.new`;
    await writeFile(aside, JSON.stringify(held));
    await rename(aside, this.file);
  }
}
