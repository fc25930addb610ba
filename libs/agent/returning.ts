/**
 * What an agent does first on a node that was fenced: it takes the controller's snapshot, stops hard whatever runs here and
 * is not in it, keeps the epoch durably, says so, and only then begins to work. Nothing is deleted. For one stream: the
 * next one begins anew with what is still to be stopped.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DriverLog, Ref } from '#libs/drivers/contract';
import type { Desire, Desired } from '#libs/rpc';
import { itemKey } from './item.js';
import { type BackOff, backOffMs } from './schedule.js';

export interface ReturningOptions {
  /** Stops what the snapshot does not want here; rejects when something still runs. */
  stopForeign: (isWanted: (ref: Ref) => boolean) => Promise<void>;
  /** Nothing of it runs any more: keeps the epoch and says so. */
  stopped: () => Promise<void>;
  /** Work begins, with all that came meanwhile in its order. */
  proceed: (desires: readonly Desire[]) => void;
  /** Ends with the stream. */
  signal: AbortSignal;
  retry: BackOff;
  log: DriverLog;
}

export class Returning {
  private readonly desires: Desire[] = [];
  private working = false;

  constructor(private readonly options: ReturningOptions) {}

  /** What the controller desires; from the snapshot's end on, the rest follows. */
  take(desire: Desire): void {
    this.desires.push(desire);
    if (!desire.snapshotEnd || this.working) return;
    this.working = true;
    const { signal, log } = this.options;
    this.work(wantedIn(this.desires)).catch((error: unknown) => {
      if (!signal.aborted) log.error({ err: error }, 'that this machine has stopped cannot be said');
    });
  }

  private async work(isWanted: (ref: Ref) => boolean): Promise<void> {
    const { signal, log, retry } = this.options;
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      try {
        await this.options.stopForeign(isWanted);
        break;
      } catch (error) {
        log.error({ err: error, attempt }, 'something that is no longer ours still runs; it is tried again');
        await sleep(backOffMs(attempt, retry), undefined, { signal }).catch(() => {}); // Ends with the stream.
      }
    }
    if (signal.aborted) return;
    await this.options.stopped();
    if (!signal.aborted) this.options.proceed(this.desires);
  }
}

/** The last word on each resource counts. */
function wantedIn(desires: readonly Desire[]): (ref: Ref) => boolean {
  const last = new Map<string, Desired>();
  for (const one of desires.flatMap(({ items }) => items)) {
    const known = one.ref && last.get(itemKey(one.ref));
    if (one.ref && (!known || known.revision <= one.revision)) last.set(itemKey(one.ref), one);
  }
  return (ref) => last.get(itemKey(ref))?.present === true;
}
