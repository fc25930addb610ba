/**
 * Many asks, one answer for all: what comes while an answer is under way, or within a time, goes together in the next. For
 * statements that cost as much for one row as for a hundred. Knows nothing of what is asked.
 */
export interface GatheringOptions {
  /** So long the first of them waits for others, where no answer is under way; 0: only for what comes in the same turn. */
  waitMs?: number;
  /** More than these go in the next. */
  atOnce?: number;
  /** An answer that takes longer is given up: whoever asks later does not wait for a connection that is dead. */
  limitMs?: number;
}

interface Asked<Ask, Answer> {
  ask: Ask;
  resolve: (answer: Answer) => void;
  reject: (error: unknown) => void;
}

export class Gathering<Ask, Answer> {
  private waiting: Asked<Ask, Answer>[] = [];
  private isUnderWay = false;
  private readonly waitMs: number;
  private readonly atOnce: number;
  private readonly limitMs: number;

  /** `answerAll` gives an answer for each ask, in their order; what it throws is thrown to all of them. */
  constructor(
    private readonly answerAll: (asks: readonly Ask[]) => Promise<readonly Answer[]>,
    { waitMs = 0, atOnce = 500, limitMs = 40_000 }: GatheringOptions = {},
  ) {
    this.waitMs = waitMs;
    this.atOnce = atOnce;
    this.limitMs = limitMs;
  }

  ask(ask: Ask): Promise<Answer> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ ask, resolve, reject });
      if (this.isUnderWay) return;
      this.isUnderWay = true;
      if (this.waitMs > 0) setTimeout(() => void this.run(), this.waitMs);
      else setImmediate(() => void this.run());
    });
  }

  private async run(): Promise<void> {
    for (;;) {
      const asked = this.waiting.splice(0, this.atOnce);
      try {
        const answers = await this.inTime(this.answerAll(asked.map(({ ask }) => ask)));
        for (const [n, { resolve }] of asked.entries()) resolve(answers[n]!);
      } catch (error) {
        for (const { reject } of asked) reject(error);
      }
      if (this.waiting.length === 0) break;
      if (this.waitMs > 0 && this.waiting.length < this.atOnce)
        await new Promise((resolve) => setTimeout(resolve, this.waitMs));
    }
    this.isUnderWay = false;
  }

  private async inTime<T>(answer: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${this.limitMs} ms`)), this.limitMs);
    });
    return Promise.race([answer, late]).finally(() => clearTimeout(timer));
  }
}
