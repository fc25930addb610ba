/**
 * What an agent does first on a node that was fenced: it takes the controller's snapshot, stops hard whatever runs here and
 * is not in it, keeps the epoch durably, says so, and only then begins to work. Nothing is deleted. For one stream: the
 * next one begins anew with what is still to be stopped.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { DriverLog, Ref } from '#libs/drivers/contract';
import type { Desire, Desired } from '#libs/rpc';
import type { Epoch } from './epoch.js';
import { itemKey } from './item.js';
import type { Machine } from './machine.js';
import { type BackOff, backOffMs } from './schedule.js';
import type { Session } from './session.js';

export interface ReturningOptions {
  /** The node's. */
  epoch: bigint;
  stored: Pick<Epoch, 'keep'>;
  machine: Pick<Machine, 'reconciler' | 'stopForeign' | 'beginStream'>;
  session: Pick<Session, 'sendStopped'>;
  /** From here on the machine takes what is desired by itself. */
  proceed: () => void;
  /** Ends with the stream. */
  signal: AbortSignal;
  retry: BackOff;
  log: DriverLog;
}

export class Returning {
  private readonly desires: Desire[] = [];
  private working = false;

  constructor(private readonly options: ReturningOptions) {
    options.log.warn({ epoch: options.epoch.toString() }, 'this node was fenced; what is no longer ours stops first');
    options.machine.reconciler.forgetAll();
  }

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
    const { signal, log, retry, machine, stored, session, epoch } = this.options;
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      try {
        await machine.stopForeign(isWanted);
        break;
      } catch (error) {
        log.error({ err: error, attempt }, 'something that is no longer ours still runs; it is tried again');
        await sleep(backOffMs(attempt, retry), undefined, { signal }).catch(() => {}); // Ends with the stream.
      }
    }
    if (signal.aborted) return;
    await stored.keep(epoch);
    await session.sendStopped(epoch);
    if (signal.aborted) return;
    this.options.proceed();
    machine.beginStream();
    for (const { items, snapshotEnd } of this.desires) machine.reconciler.desire(items, snapshotEnd);
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
