/**
 * The epoch of the node that this machine has stopped for: it rises with each fence. Kept durably, and raised only after
 * what the fence took away has stopped, so that a crash in between stops it again.
 */
import { join } from 'node:path';
import { readJson, writeJsonDurably } from './durable.js';

export class Epoch {
  private constructor(
    private readonly file: string,
    private value: bigint,
  ) {}

  static async load(stateDir: string): Promise<Epoch> {
    const file = join(stateDir, 'epoch.json');
    const stored = await readJson<{ epoch: string }>(file);
    if (stored && !/^[0-9]{1,19}$/.test(stored.epoch)) throw new Error(`${file} holds no epoch.`);
    return new Epoch(file, BigInt(stored?.epoch ?? 0));
  }

  /** 0: none has been told yet. */
  get known(): bigint {
    return this.value;
  }

  /** Whether a node of this epoch was fenced since. Nodes begin with 1, and so does a machine that was told of none. */
  isBehind(epoch: bigint): boolean {
    return epoch > (this.value || 1n);
  }

  async keep(epoch: bigint): Promise<void> {
    if (epoch <= this.value) return;
    await writeJsonDurably(this.file, { epoch: epoch.toString() });
    this.value = epoch;
  }
}
