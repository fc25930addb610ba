/** The deeds of a driver that send machines away or let them go, as far as what ends them is concerned. */
import { DriverError } from './driver-error.js';
import type { AbandonArguments } from './migration.js';

export interface Sending {
  operationId: string;
  /** The sending is not to go on. */
  abandoned: AbortController;
  /** The controller knows whose it is: there is nothing to wait for. */
  settled: AbortController;
}

export class Sendings {
  private readonly running = new Map<string, Sending>();

  /** Does `work` for the instance `id`; until it ends, `interrupt` reaches it. */
  async during<T>(id: string, operationId: string, work: (sending: Sending) => Promise<T>): Promise<T> {
    const sending = { operationId, abandoned: new AbortController(), settled: new AbortController() };
    this.running.set(id, sending);
    try {
      return await work(sending);
    } finally {
      this.running.delete(id);
    }
  }

  /** Ends what is under way for this very operation; else nothing. */
  interrupt(id: string, { operationId, settled }: AbandonArguments): void {
    const sending = this.running.get(id);
    if (sending?.operationId !== operationId) return;
    const reason = new DriverError('migration_failed', 'The migration is abandoned.', { permanent: true });
    sending.abandoned.abort(reason);
    if (settled) sending.settled.abort(reason);
  }
}
