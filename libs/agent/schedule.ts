/** Who may work when: one at a time for each resource, a few at a time for the machine, and back-off between tries. */

/** Runs what is given for one key one after the other, for different keys at once. */
export class KeyedQueue {
  private readonly tails = new Map<string, Promise<unknown>>();

  run<T>(key: string, work: () => Promise<T>): Promise<T> {
    const before = this.tails.get(key) ?? Promise.resolve();
    const result = before.then(work, work);
    const tail = result.then(
      () => {},
      () => {},
    );
    this.tails.set(key, tail);
    void tail.then(() => {
      if (this.tails.get(key) === tail) this.tails.delete(key);
    });
    return result;
  }

  /** Resolves when nothing is under way any more. */
  async idle(): Promise<void> {
    while (this.tails.size > 0) await Promise.all(this.tails.values());
  }
}

/** At most `width` works at once; the rest wait in order. */
export class Slots {
  private readonly waiting: (() => void)[] = [];
  private taken = 0;

  constructor(private readonly width: number) {}

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.taken >= this.width) await new Promise<void>((resolve) => this.waiting.push(resolve));
    else this.taken += 1;
    try {
      return await work();
    } finally {
      // The slot goes to the next in line as it is, so that nobody slips in between.
      const next = this.waiting.shift();
      if (next) next();
      else this.taken -= 1;
    }
  }
}

export interface BackOff {
  firstMs: number;
  mostMs: number;
}

/** Doubles with each attempt up to the most, and takes a random part of it off, at most half. */
export function backOffMs(attempt: number, { firstMs, mostMs }: BackOff, random: () => number = Math.random): number {
  const full = Math.min(mostMs, firstMs * 2 ** Math.min(attempt, 30));
  return Math.round(full * (1 - random() / 2));
}
