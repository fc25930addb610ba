/**
 * Wakes other processes after a commit. NOTIFY inside a transaction would hold a lock of the whole server until its commit
 * is flushed, so that commits queue instead of being flushed together; what is lost when this process dies in between is
 * found by the others' own looking from time to time.
 */
import type pg from 'pg';
import type { Channel } from './listener.js';

/** Whoever listens gathers what comes for longer than this before it looks. */
const PATIENT: Channel = 'rhyzome_event';
const PATIENCE_MS = 30;

export class Waker {
  private pending = new Map<string, [Channel, string]>();
  private sending: Promise<void> | undefined;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly pool: pg.Pool,
    private readonly onError: (error: Error) => void,
  ) {}

  /** Tells `channel` to look again; calls that come while one is under way go together in the next, and news of events with others. */
  wake(channel: Channel, payload = ''): void {
    this.pending.set(`${channel} ${payload}`, [channel, payload]);
    if (channel !== PATIENT) this.start();
    else this.timer ??= setTimeout(() => this.start(), PATIENCE_MS);
  }

  private start(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.sending ??= this.send().finally(() => {
      this.sending = undefined;
    });
  }

  private async send(): Promise<void> {
    while (this.pending.size > 0) {
      const wakes = [...this.pending.values()];
      this.pending = new Map();
      try {
        // Nobody waits for it to be on disk: a server that crashed has forgotten who listened.
        await this.pool.query(
          `select set_config('synchronous_commit', 'off', true), pg_notify(channel, payload)
           from unnest($1::text[], $2::text[]) as w (channel, payload)`,
          [wakes.map(([channel]) => channel), wakes.map(([, payload]) => payload)],
        );
      } catch (error) {
        this.onError(error as Error);
      }
    }
  }

  /** Resolves when all that was asked for is sent. */
  async flush(): Promise<void> {
    this.start();
    await this.sending;
  }
}
