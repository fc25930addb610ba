/**
 * Gives committed events their numbers: dense within a tenant, in the order of the rows' ids, which was drawn under the
 * row lock of what changed. One leader does it, held by an advisory lock of the very connection that numbers, so that a
 * leader that lost its connection has lost its office too. The leader also prunes what is past keeping.
 */

import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { createPool, type Listener } from '#libs/db';

const BATCH = 1_000;
const LOCK = "hashtextextended('rhyzome.event_leader', 0)";
const ELECTION_MS = 2_000;
const PRUNE_MS = 60_000;
/** Between two rounds while events go on coming. */
const GATHER_MS = 50;

const numberBatch = `
with batch as (
  select tenant_id, id, row_number() over (partition by tenant_id order by id) as n
  from (select tenant_id, id from event where number is null order by id limit $1) unnumbered
), counts as (
  select tenant_id, max(n) as c from batch group by tenant_id
), raised as (
  insert into event_counter as k (tenant_id, last) select tenant_id, c from counts
  on conflict (tenant_id) do update set last = k.last + excluded.last
  returning tenant_id, last
), numbered as (
  update event e set number = raised.last - counts.c + batch.n
  from batch join counts using (tenant_id) join raised using (tenant_id)
  where e.tenant_id = batch.tenant_id and e.id = batch.id
  returning 1
)
select count(*)::int as count from numbered`;

/** In a transaction of its own: NOTIFY holds a lock of the whole server until its commit is flushed (libs/db/waker.ts). */
const tellNumbered = `select set_config('synchronous_commit', 'off', true), pg_notify('rhyzome_numbered', '')`;

const pruneEvents = `
with gone as (
  delete from event where number is not null and at < now() - make_interval(secs => $1)
  returning tenant_id, number
), highest as (select tenant_id, max(number) as n from gone group by tenant_id)
update event_counter k set pruned = greatest(k.pruned, highest.n) from highest where k.tenant_id = highest.tenant_id`;

export interface NumbererOptions {
  /** How long events can be resumed from. */
  keepSeconds?: number;
  onError?: (error: Error) => void;
}

export class EventNumberer {
  private readonly pool: pg.Pool;
  private client: pg.PoolClient | undefined;
  private timer: NodeJS.Timeout | undefined;
  private working = false;
  private again = false;
  private closed = false;
  private prunedAt = 0;
  private readonly keepSeconds: number;

  constructor(
    operator: pg.PoolConfig,
    listener: Listener,
    private readonly options: NumbererOptions = {},
  ) {
    this.keepSeconds = options.keepSeconds ?? 7 * 24 * 3600;
    this.pool = createPool(
      operator,
      'rhyzome_operator',
      { max: 1, applicationName: 'rhyzome events' },
      options.onError,
    );
    listener.on('rhyzome_event', () => void this.work());
  }

  /** Stands for election now and from time to time. */
  start(): void {
    void this.work();
    this.timer = setInterval(() => void this.work(), ELECTION_MS);
    this.timer.unref();
  }

  get isLeader(): boolean {
    return this.client !== undefined;
  }

  private async work(): Promise<void> {
    if (this.closed) return;
    if (this.working) {
      this.again = true;
      return;
    }
    this.working = true;
    try {
      do {
        this.again = false;
        if (await this.elected()) await this.numberAll();
        // What comes in quick succession is numbered together: each round is a commit.
        if (this.again) await sleep(GATHER_MS);
      } while (this.again && !this.closed);
    } catch (error) {
      this.resign(true);
      this.options.onError?.(error as Error);
    } finally {
      this.working = false;
    }
  }

  private async elected(): Promise<boolean> {
    if (this.client) return true;
    const client = await this.pool.connect();
    try {
      const answer = await client.query<{ ok: boolean }>(`select pg_try_advisory_lock(${LOCK}) as ok`);
      if (answer.rows[0]?.ok && !this.closed) {
        this.client = client;
        client.once('end', () => this.resign(true));
        return true;
      }
      // One that ended meanwhile gives up with its connection what it was given: nobody else would be elected.
      client.release(this.closed);
      return false;
    } catch (error) {
      client.release(true);
      throw error;
    }
  }

  private async numberAll(): Promise<void> {
    for (let full = true; full && this.client; ) {
      const result: pg.QueryResult<{ count: number }> = await this.client.query(numberBatch, [BATCH]);
      const { count } = result.rows[0]!;
      full = count === BATCH;
      if (count > 0) await this.client?.query(tellNumbered);
    }
    if (this.client && Date.now() - this.prunedAt > PRUNE_MS) {
      this.prunedAt = Date.now();
      await this.client.query(pruneEvents, [this.keepSeconds]);
      await this.client.query("delete from idempotency where created_at < now() - interval '24 hours'");
    }
  }

  private resign(broken: boolean): void {
    const client = this.client;
    this.client = undefined;
    client?.removeAllListeners('end');
    client?.release(broken);
  }

  /** Hands over to another, which need not wait for its next election. */
  async close(): Promise<void> {
    this.closed = true;
    clearInterval(this.timer);
    await this.client
      ?.query(`select pg_advisory_unlock(${LOCK}), pg_notify('rhyzome_event', '')`)
      .catch(() => undefined); // The end of the connection does the same, later.
    this.resign(true);
    await this.pool.end();
  }
}
