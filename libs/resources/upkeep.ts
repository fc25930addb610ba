/**
 * Runs what falls due by itself in each kind (expiries of deleted disks, content that nobody needs): in one process at a
 * time, by an advisory lock, every minute. What fails is logged and tried the next time.
 */
import { sql } from 'kysely';
import type { Database } from '#libs/db';
import type { KindRegistry } from './registry.js';

export interface UpkeepLog {
  warn(fields: object, message: string): void;
}

const EVERY_MS = 60_000;

export class Upkeep {
  private readonly ending = new AbortController();
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> = Promise.resolve();

  constructor(
    private readonly db: Database,
    private readonly registry: KindRegistry,
    private readonly log: UpkeepLog,
    private readonly everyMs = EVERY_MS,
  ) {}

  start(): void {
    this.timer = setInterval(() => this.look(), this.everyMs);
    this.look();
  }

  /** Resolves when what is under way has ended. */
  async stop(): Promise<void> {
    clearInterval(this.timer);
    this.ending.abort();
    await this.running;
  }

  private look(): void {
    this.running = this.running.then(() => this.round());
  }

  /** One round over all kinds; those that another process is at now are left to it. */
  async round(): Promise<void> {
    for (const kind of this.registry.all) {
      if (!kind.upkeep || this.ending.signal.aborted) continue;
      try {
        await this.alone(kind.name, () => kind.upkeep!(this.db, this.ending.signal));
      } catch (error) {
        this.log.warn({ kind: kind.name, err: error }, 'upkeep failed; it is tried again');
      }
    }
  }

  /** The lock lives in a transaction of its own, so that it ends with the process, and what is done commits by itself. */
  private async alone(kind: string, work: () => Promise<void>): Promise<void> {
    await this.db.operatorTransaction(async (tx) => {
      const got = await sql<{ ok: boolean }>`
        select pg_try_advisory_xact_lock(hashtextextended(${`rhyzome.upkeep.${kind}`}, 0)) as ok`.execute(tx);
      if (got.rows[0]?.ok) await work();
    });
  }
}
