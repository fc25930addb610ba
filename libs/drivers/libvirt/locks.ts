/**
 * Work on the same thing, one after the other. All keys are taken in one moment, so that two holders can never wait for
 * each other, as long as nobody who holds some asks for more.
 */
export class Locks {
  private readonly tails = new Map<string, Promise<void>>();

  /** Does `work` when nobody else holds any of the keys. An abort while it waits throws the signal's reason. */
  async hold<T>(keys: readonly string[], signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    const mine = [...new Set(keys)];
    const before = Promise.all(mine.map((key) => this.tails.get(key)));
    let release = () => {};
    const held = new Promise<void>((resolve) => (release = resolve));
    const tail = before.then(() => held);
    for (const key of mine) this.tails.set(key, tail);
    try {
      await untilAborted(before, signal);
      return await work();
    } finally {
      release();
      // Whoever stands behind waits for those before, too: also when this one gave up.
      void tail.then(() => {
        for (const key of mine) if (this.tails.get(key) === tail) this.tails.delete(key);
      });
    }
  }
}

/** Waits; an abort throws the signal's reason, and what was waited for goes on. */
export async function untilAborted(waiting: Promise<unknown>, signal: AbortSignal): Promise<void> {
  let stop = () => {};
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason);
    signal.addEventListener('abort', stop, { once: true });
  });
  try {
    await Promise.race([waiting, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
