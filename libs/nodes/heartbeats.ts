/**
 * The heartbeats of all nodes whose streams a replica holds, written down together: one statement for those of a quarter of a
 * second, however many nodes there are. Knows nothing of streams.
 */
import type { Database } from '#libs/db';
import { type Beat, recordHeartbeats } from './registry.js';

/** So long a heartbeat may wait for others. It says that a node lives; nobody waits for it. */
const GATHER_MS = 250;

interface Waiting {
  beat: Beat;
  resolve: (isOurs: boolean) => void;
  reject: (error: unknown) => void;
}

export class Heartbeats {
  private waiting: Waiting[] = [];
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly db: Database) {}

  /** Resolves once it is written down; false when a later stream of the node has taken over. */
  record(beat: Beat): Promise<boolean> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ beat, resolve, reject });
      this.timer ??= setTimeout(() => void this.flush(), GATHER_MS);
    });
  }

  private async flush(): Promise<void> {
    const gathered = this.waiting;
    this.waiting = [];
    this.timer = undefined;
    try {
      const ours = await recordHeartbeats(
        this.db,
        gathered.map(({ beat }) => beat),
      );
      for (const { beat, resolve } of gathered) resolve(ours.has(beat.session));
    } catch (error) {
      for (const { reject } of gathered) reject(error);
    }
  }
}
