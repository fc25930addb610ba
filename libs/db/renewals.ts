/**
 * Keeps leases of this process by a statement that a thread of its own runs: a process that is busy for seconds is not
 * taken for a dead one, and one that is stopped, killed or hung is.
 */
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import type pg from 'pg';
import type { RenewalData, RenewalOrder } from './renewal-thread.js';

/** As long as this without a turn of the event loop is hung, not busy. */
const HUNG_MS = 60_000;

export interface RenewalsOptions {
  connection: pg.ClientConfig;
  statement: string;
  everyMs: number;
  onError(message: string): void;
}

export class Renewals {
  private readonly thread: Worker;
  private readonly timer: NodeJS.Timeout;
  private order: RenewalOrder = null;

  constructor({ connection, statement, everyMs, onError }: RenewalsOptions) {
    const { ssl } = connection;
    const anyServerName = typeof ssl === 'object' && ssl.checkServerIdentity !== undefined;
    const data: RenewalData = {
      connection: {
        ...connection,
        ...(typeof ssl === 'object' && { ssl: { ...ssl, checkServerIdentity: undefined } }),
      },
      anyServerName,
      statement,
      everyMs,
      hungMs: HUNG_MS,
    };
    this.thread = new Worker(new URL(`./renewal-thread${extname(import.meta.url)}`, import.meta.url), {
      workerData: data,
    });
    this.thread.on('message', onError);
    this.thread.on('error', (error) => onError(String(error)));
    this.thread.unref();
    this.timer = setInterval(() => this.thread.postMessage(this.order), everyMs).unref();
  }

  /** What the statement runs with from now on; null: nothing is held. */
  keep(parameters: RenewalOrder): void {
    this.order = parameters;
    this.thread.postMessage(parameters);
  }

  /** Nothing is renewed any more once it resolves. */
  async close(): Promise<void> {
    clearInterval(this.timer);
    await this.thread.terminate();
  }
}
