/**
 * When the nodes whose streams this replica holds are asked what they have: every few minutes, and at once when an
 * administrator wants to know. One statement a look, however many nodes there are.
 */
import type { Database, Listener } from '#libs/db';
import type { NodeStream } from './stream.js';
import type { StreamLog } from './stream-log.js';
import { inventoriesDue, pruneSweep } from './sweep.js';

export const INVENTORY_EVERY_MS = 5 * 60_000;
const LOOK_MS = 15_000;
const PRUNE_EVERY_MS = 60 * 60_000;

export class InventoryClock {
  private readonly timer: NodeJS.Timeout;
  private readonly off: () => void;
  private looking: Promise<void> | undefined;
  private prunedAt = Date.now();

  constructor(
    private readonly db: Database,
    listener: Listener,
    private readonly streams: ReadonlyMap<string, NodeStream>,
    private readonly log: StreamLog,
    private readonly everyMs = INVENTORY_EVERY_MS,
  ) {
    this.off = listener.on('rhyzome_sweep', () => this.look());
    this.timer = setInterval(() => this.look(), Math.min(LOOK_MS, everyMs));
    this.timer.unref();
  }

  private look(): void {
    this.looking ??= this.askDue()
      .catch((error: unknown) =>
        this.log.warn({ err: error }, 'nodes cannot be asked what they have; it is tried again'),
      )
      .finally(() => {
        this.looking = undefined;
      });
  }

  private async askDue(): Promise<void> {
    if (this.streams.size === 0) return;
    for (const nodeId of await inventoriesDue(this.db, [...this.streams.keys()], this.everyMs)) {
      await this.streams.get(nodeId)?.inventory.ask();
    }
    if (Date.now() - this.prunedAt < PRUNE_EVERY_MS) return;
    this.prunedAt = Date.now();
    await pruneSweep(this.db);
  }

  close(): void {
    this.off();
    clearInterval(this.timer);
  }
}
