/**
 * LISTEN on a connection of its own, made again when it breaks. A notification only says "look again": after every
 * reconnect all callbacks are called once, since something may have been missed.
 */
import type pg from 'pg';
import { createPool, type Role } from './pools.js';

export type Channel =
  | 'rhyzome_job'
  | 'rhyzome_event'
  | 'rhyzome_numbered'
  | 'rhyzome_node'
  | 'rhyzome_session'
  | 'rhyzome_tenant'
  | 'rhyzome_access'
  | 'rhyzome_content'
  | 'rhyzome_certificate'
  | 'rhyzome_sweep';
type Callback = (payload: string | null) => void;

const FIRST_RETRY_MS = 100;
const MAX_RETRY_MS = 5_000;
/** A dead peer that sends no RST is noticed by a query from time to time. */
const PROBE_MS = 10_000;

export class Listener {
  private readonly callbacks = new Map<Channel, Set<Callback>>();
  private readonly pool: pg.Pool;
  private client: pg.PoolClient | undefined;
  private retryMs = FIRST_RETRY_MS;
  private timer: NodeJS.Timeout | undefined;
  private closed = false;

  constructor(
    connection: pg.PoolConfig,
    role: Role,
    private readonly onError: (error: Error) => void = () => undefined,
  ) {
    this.pool = createPool(connection, role, { max: 1, applicationName: 'rhyzome listen' }, onError);
  }

  /** Calls `callback` on each notification and after each reconnect. Call before `start`. Returns its end. */
  on(channel: Channel, callback: Callback): () => void {
    const set = this.callbacks.get(channel) ?? new Set();
    this.callbacks.set(channel, set);
    const isNew = set.size === 0;
    set.add(callback);
    if (isNew && this.client) this.client.query(`listen ${channel}`).catch((e: Error) => this.broken(e));
    return () => set.delete(callback);
  }

  /** Connects, or goes on trying in the background; never rejects. */
  async start(): Promise<void> {
    if (this.closed) return;
    try {
      const client = await this.pool.connect();
      this.client = client;
      client.on('notification', (message) => this.call(message.channel as Channel, message.payload ?? null));
      client.on('end', () => this.broken(new Error('the listening connection ended')));
      client.on('error', (error) => this.broken(error));
      for (const channel of this.callbacks.keys()) await client.query(`listen ${channel}`);
      this.retryMs = FIRST_RETRY_MS;
      this.probe();
      for (const channel of this.callbacks.keys()) this.call(channel, null);
    } catch (error) {
      this.broken(error as Error);
    }
  }

  private call(channel: Channel, payload: string | null): void {
    for (const callback of this.callbacks.get(channel) ?? []) callback(payload);
  }

  private probe(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.client?.query('select 1').then(
        () => this.probe(),
        (error: Error) => this.broken(error),
      );
    }, PROBE_MS);
    this.timer.unref();
  }

  private broken(error: Error): void {
    const client = this.client;
    this.client = undefined;
    clearTimeout(this.timer);
    if (client) {
      client.removeAllListeners('notification');
      client.removeAllListeners('end');
      client.release(true);
    }
    if (this.closed) return;
    this.onError(error);
    this.timer = setTimeout(() => void this.start(), this.retryMs);
    this.timer.unref();
    this.retryMs = Math.min(this.retryMs * 2, MAX_RETRY_MS);
  }

  async close(): Promise<void> {
    this.closed = true;
    clearTimeout(this.timer);
    const client = this.client;
    this.client = undefined;
    client?.removeAllListeners('end');
    client?.release(true);
    await this.pool.end();
  }
}
