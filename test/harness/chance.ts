/** Chance that a seed decides: the same seed, the same choices. One for each who chooses, so that none depends on the others' pace. */

export class Chance {
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0;
  }

  /** Of the same seed, for the nth who chooses. */
  of(n: number): Chance {
    const own = new Chance((this.state ^ Math.imul(n + 1, 0x9e3779b1)) >>> 0);
    own.fraction();
    return own;
  }

  /** From 0 up to 1 (mulberry32). */
  fraction(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = this.state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** A whole number from `least` to `most`. */
  whole(least: number, most: number): number {
    return least + Math.floor(this.fraction() * (most - least + 1));
  }

  /** So many of them, each once, in their order; all, where there are no more. */
  some<T>(list: readonly T[], count: number): T[] {
    const left = list.map((_, at) => at);
    const chosen: number[] = [];
    while (left.length > 0 && chosen.length < count) chosen.push(...left.splice(this.whole(0, left.length - 1), 1));
    return chosen.sort((a, b) => a - b).map((at) => list[at]!);
  }

  pick<T>(list: readonly T[]): T {
    return list[this.whole(0, list.length - 1)] as T;
  }
}
