/**
 * Waiting for a ring without missing one: a ring that comes while nobody waits is answered by the next wait. For loops
 * that look, then wait until somebody says "look again" or the time is up.
 */
export class Doorbell {
  private isRung = false;
  private answer: (() => void) | undefined;

  /** Bound, so that it can be given as a callback. */
  readonly ring = (): void => {
    this.isRung = true;
    this.answer?.();
  };

  /** True when it rang since the last wait or rings within `ms`. */
  async wait(ms: number): Promise<boolean> {
    if (!this.isRung && ms > 0) {
      let timer: NodeJS.Timeout | undefined;
      await new Promise<void>((resolve) => {
        this.answer = resolve;
        timer = setTimeout(resolve, ms);
      });
      clearTimeout(timer);
      this.answer = undefined;
    }
    const rang = this.isRung;
    this.isRung = false;
    return rang;
  }
}
