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

/** What falls due beside the kinds' own. */
export interface UpkeepTask {
  name: string;
  /** Between two rounds of it. */
  everyMs: number;
  work(db: Database, signal: AbortSignal): Promise<void>;
}

const EVERY_MS = 60_000;

/** How long one task may take while nobody else begins it. */
const WORK_MS = 10 * 60_000;

export class Upkeep {
  private readonly ending = new AbortController();
  private timer: NodeJS.Timeout | undefined;
  private running: Promise<void> = Promise.resolve();
  private readonly doneAt = new Map<UpkeepTask, number>();

  constructor(
    private readonly db: Database,
    private readonly registry: KindRegistry,
    private readonly log: UpkeepLog,
    private readonly everyMs = EVERY_MS,
    private readonly tasks: readonly UpkeepTask[] = [],
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

  /** One round over all kinds and tasks; those that another process is at now are left to it. */
  async round(): Promise<void> {
    for (const kind of this.registry.all) {
      if (!kind.upkeep || this.ending.signal.aborted) continue;
      await this.attempt(kind.name, () => kind.upkeep!(this.db, this.ending.signal));
    }
    for (const task of this.tasks) {
      if (this.ending.signal.aborted || Date.now() - (this.doneAt.get(task) ?? 0) < task.everyMs) continue;
      this.doneAt.set(task, Date.now());
      await this.attempt(task.name, () => task.work(this.db, this.ending.signal));
    }
  }

  private async attempt(name: string, work: () => Promise<void>): Promise<void> {
    try {
      await this.alone(name, work);
    } catch (error) {
      this.log.warn({ kind: name, err: error }, 'upkeep failed; it is tried again');
    }
  }

  /** The lock lives in a transaction of its own, so that it ends with the process, and what is done commits by itself. */
  private async alone(name: string, work: () => Promise<void>): Promise<void> {
    await this.db.operatorTransaction(async (tx) => {
      const got = await sql<{ ok: boolean }>`
        select pg_try_advisory_xact_lock(hashtextextended(${`rhyzome.upkeep.${name}`}, 0)) as ok,
          set_config('idle_in_transaction_session_timeout', ${`${WORK_MS}`}, true)`.execute(tx);
      if (got.rows[0]?.ok) await work();
    });
  }
}
