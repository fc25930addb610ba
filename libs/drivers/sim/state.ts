/**
 * What the simulated machine holds, durable in one JSON file, so that an agent that starts again finds its machines
 * running. Changes that happen together are written together.
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import type { InstanceSpec, InstanceStatus, NetworkSpec, Ref } from '#libs/drivers/contract';

export interface SimNetwork {
  ref: Ref;
  spec: NetworkSpec;
}

export interface SimInstance {
  ref: Ref;
  spec: InstanceSpec;
  powerState: InstanceStatus['powerState'];
  /** How often its guest has booted. */
  boots: number;
}

interface Snapshot {
  networks: [string, SimNetwork][];
  instances: [string, SimInstance][];
}

export class SimState {
  readonly networks = new Map<string, SimNetwork>();
  readonly instances = new Map<string, SimInstance>();
  private writing: Promise<void> | undefined;
  private queued: Promise<void> | undefined;

  private constructor(private readonly file: string) {}

  /** Nothing there is an empty machine; a file that cannot be read is an error. */
  static async load(file: string): Promise<SimState> {
    const state = new SimState(file);
    const text = await readFile(file, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return '{"networks":[],"instances":[]}';
      throw error;
    });
    const snapshot = JSON.parse(text) as Snapshot;
    for (const [id, network] of snapshot.networks) state.networks.set(id, network);
    for (const [id, instance] of snapshot.instances) state.instances.set(id, instance);
    return state;
  }

  /** Resolves when all that is in memory now is in the file. */
  save(): Promise<void> {
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
    const snapshot: Snapshot = { networks: [...this.networks], instances: [...this.instances] };
    const aside = `${this.file}.new`;
    await writeFile(aside, JSON.stringify(snapshot));
    await rename(aside, this.file);
  }
}
