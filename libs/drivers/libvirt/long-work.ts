/**
 * Work that may take longer than one try to apply something: it goes on when the try is given up, and the next try waits
 * for it instead of beginning again.
 */
import { untilAborted } from './locks.js';

interface Work {
  ended: Promise<void>;
  controller: AbortController;
}

export class LongWork {
  private readonly running = new Map<string, Work>();

  /** Begins unless it is under way, and waits for its end; an abort only ends the waiting. Throws what the work throws. */
  async join(key: string, signal: AbortSignal, begin: (signal: AbortSignal) => Promise<void>): Promise<void> {
    signal.throwIfAborted();
    const work = this.running.get(key) ?? this.start(key, begin);
    await untilAborted(work.ended, signal);
  }

  /** Ends it and waits until it has ended; none is success. */
  async cancel(key: string): Promise<void> {
    const work = this.running.get(key);
    work?.controller.abort(new Error('no longer wanted'));
    // How it ended is told to those who wait for it.
    await work?.ended.catch(() => undefined);
  }

  /** Ends all. */
  async close(): Promise<void> {
    await Promise.all([...this.running.keys()].map((key) => this.cancel(key)));
  }

  private start(key: string, begin: (signal: AbortSignal) => Promise<void>): Work {
    const controller = new AbortController();
    const ended = begin(controller.signal).finally(() => this.running.delete(key));
    // Nobody may be waiting any more when it fails; the next try begins anew and hears of it.
    ended.catch(() => undefined);
    const work = { ended, controller };
    this.running.set(key, work);
    return work;
  }
}
