/**
 * Ends what goes on for long (event streams, consoles) when its caller may no longer: at the moment that the token expires,
 * and about a second after it was revoked. It asks on its own time and not once an event, so the question must be
 * answered from memory.
 */
import { RhyzomeError } from './errors.js';

/** How often is asked. */
const EVERY_MS = 1_000;
/** Longest time that a timer takes. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export interface StreamGuardOptions {
  /** Throws RhyzomeError when the caller may no longer be here. What it throws besides takes nobody's right away. */
  assertWelcome(): Promise<void> | void;
  /** It is asked at this moment, too. */
  expiresAt?: Date;
  everyMs?: number;
}

/** What ends a stream; that it cannot be known at the moment does not. */
const endings: ReadonlySet<string> = new Set(['unauthenticated', 'forbidden', 'not_found']);

export class StreamGuard {
  private readonly ending = new AbortController();
  private readonly timers: NodeJS.Timeout[] = [];
  private asking: Promise<void> | undefined;

  constructor(private readonly options: StreamGuardOptions) {
    this.timers.push(setInterval(() => void this.ask(), options.everyMs ?? EVERY_MS));
    if (options.expiresAt) {
      const left = options.expiresAt.getTime() - Date.now();
      if (left < MAX_TIMER_MS) this.timers.push(setTimeout(() => void this.ask(), Math.max(0, left) + 1));
    }
    for (const timer of this.timers) timer.unref();
  }

  /** Aborts when the caller may no longer be here, with the RhyzomeError that says why as its reason. */
  get signal(): AbortSignal {
    return this.ending.signal;
  }

  /** Why it ended; undefined while it goes on. */
  get reason(): RhyzomeError | undefined {
    return this.signal.aborted ? (this.signal.reason as RhyzomeError) : undefined;
  }

  /** Never rejects. */
  ask(): Promise<void> {
    this.asking ??= this.askNow().finally(() => {
      this.asking = undefined;
    });
    return this.asking;
  }

  private async askNow(): Promise<void> {
    try {
      await this.options.assertWelcome();
    } catch (error) {
      if (error instanceof RhyzomeError && endings.has(error.code)) this.ending.abort(error);
    }
  }

  /** The stream has ended by itself. */
  close(): void {
    for (const timer of this.timers) clearInterval(timer);
  }
}
