/**
 * Makes the machine what the controller wants: level-triggered, one worker a resource, again and again until it is so.
 * Networks come before instances and go after them; a resource that fails keeps no other waiting for longer than one try.
 * What the controller does not mention is left alone (unowned.ts has the one exception).
 */
import type { Capability, DriverLog, Found, Ref } from '#libs/drivers/contract';
import { type Desired, type Observed, Phase } from '#libs/rpc';
import { failureOf, Item, itemKey, type Wanted } from './item.js';
import { type BackOff, backOffMs, type KeyedQueue, Slots } from './schedule.js';

export interface ReconcilerOptions {
  capabilities: readonly Capability<any, any>[];
  queue: KeyedQueue;
  log: DriverLog;
  /** Told whenever something about a wanted resource changed. */
  onObserved: (observed: Observed) => void;
  /** Told when something else is desired than before. */
  onDesired?: () => void;
  concurrency: number;
  retry: BackOff;
  /** How long one try may take (ms). */
  tryTimeoutMs: number;
  /** How long a resource waits at most for the first try of those it builds on (ms). */
  orderTimeoutMs: number;
}

export class Reconciler {
  private readonly items = new Map<string, Item>();
  private readonly capabilities: Map<string, Capability<any, any>>;
  private readonly slots: Slots;
  /** What was reached already is looked after beside the work, not instead of it. */
  private readonly recheckSlots = new Slots(1);
  private readonly closing = new AbortController();
  private mentioned: Set<string> | undefined;
  /** A stream's snapshot has been received to its end, and no other has begun. */
  private isWhole = false;

  constructor(private readonly options: ReconcilerOptions) {
    this.capabilities = new Map(options.capabilities.map((capability) => [capability.kind, capability]));
    this.slots = new Slots(options.concurrency);
  }

  /** A stream begins: its snapshot decides which resources are the controller's concern. */
  beginSnapshot(): void {
    this.mentioned = new Set();
    this.isWhole = false;
  }

  /** Whether all that the controller desires here is known: what is not, is nobody's. */
  get knowsAll(): boolean {
    return this.isWhole;
  }

  /** Takes what is desired. A message may be late or doubled: an older revision changes nothing, the same is told again. */
  desire(desired: readonly Desired[], snapshotEnd: boolean): void {
    for (const one of desired) {
      if (one.ref) this.desireOne({ ...one.ref }, one);
    }
    if (snapshotEnd && this.mentioned) {
      for (const [key, item] of this.items) {
        if (!this.mentioned.has(key)) this.forget(item);
      }
      this.mentioned = undefined;
      this.isWhole = true;
    }
    // In the middle of a snapshot, what was not mentioned yet is no less desired.
    if (!this.mentioned) this.options.onDesired?.();
  }

  /** Nothing is wanted any more until the next snapshot; ends the tries under way, what exists stays. */
  forgetAll(): void {
    for (const item of [...this.items.values()]) this.forget(item);
  }

  /** Ends the tries under way; what exists stays. */
  close(): void {
    this.closing.abort(new Error('the agent ends'));
    for (const item of this.items.values()) clearTimeout(item.timer);
  }

  item(ref: Ref): Item | undefined {
    return this.items.get(itemKey(ref));
  }

  /** Every resource that the controller wants something of. */
  all(): IterableIterator<Item> {
    return this.items.values();
  }

  /**
   * Something says that the status changed by itself. It is read again when nobody works on the resource, because a
   * reboot looks like a guest that shut down while it lasts; then it is told and not corrected: what follows is the
   * controller's to decide. Only what the driver calls damaged is nobody's wish and is put right.
   */
  noteStatus({ ref, status }: Found<unknown>): void {
    const item = this.item(ref);
    if (!item || item.confirming || !hasOtherStatus(item, status)) return;
    item.confirming = true;
    const { queue, log } = this.options;
    queue
      .run(item.key, () => this.confirmStatus(item))
      .catch((error: unknown) => log.warn({ err: error, ref }, 'a change of status cannot be confirmed'))
      .finally(() => {
        item.confirming = false;
      });
  }

  private async confirmStatus(item: Item): Promise<void> {
    const found = await this.capabilities.get(item.ref.kind)!.inventory();
    const fresh = found.find(({ ref }) => itemKey(ref) === item.key);
    if (!fresh || !item.wanted || !hasOtherStatus(item, fresh.status)) return;
    item.outcome = { phase: Phase.PHASE_READY, status: fresh.status };
    this.options.onObserved(item.observed());
    if (fresh.damaged) this.reapply(item);
  }

  /** Tries again what was reached already, or failed for good; its outcome stands until the try says otherwise. */
  reapply(item: Item): void {
    const isReadable = !item.wanted?.present || item.wanted.spec !== undefined;
    if (item.settled && isReadable) this.enqueue(item, true);
  }

  private desireOne(ref: Ref, desired: Desired): void {
    const key = itemKey(ref);
    this.mentioned?.add(key);
    const item = this.items.get(key) ?? new Item(ref);
    this.items.set(key, item);
    const known = item.wanted?.revision;
    if (known !== undefined && desired.revision < known) return;
    if (known === desired.revision) {
      this.options.onObserved(item.observed());
      return;
    }
    const { revision, generation, present } = desired;
    const wanted: Wanted = { revision, generation, present, spec: undefined };
    item.want(wanted, Date.now() + this.options.orderTimeoutMs);
    if (!this.capabilities.has(ref.kind)) {
      this.refuse(item, 'unknown_kind', `The drivers of this node know no ${ref.kind}.`);
      return;
    }
    try {
      wanted.spec = present ? JSON.parse(desired.specJson) : undefined;
    } catch {
      this.refuse(item, 'invalid_spec', 'The specification is not JSON.');
      return;
    }
    this.schedule(item, 0);
  }

  private refuse(item: Item, code: string, message: string): void {
    item.outcome = { phase: Phase.PHASE_FAILED, failure: { code, message } };
    item.tried = true;
    this.options.onObserved(item.observed());
  }

  private forget(item: Item): void {
    clearTimeout(item.timer);
    item.wanted = undefined;
    item.running?.abort(new Error('no longer mentioned'));
    this.items.delete(item.key);
  }

  private schedule(item: Item, delayMs: number): void {
    clearTimeout(item.timer);
    if (this.closing.signal.aborted) return;
    if (delayMs === 0) this.enqueue(item);
    else item.timer = setTimeout(() => this.enqueue(item), delayMs);
  }

  private enqueue(item: Item, again = false): void {
    if (item.queued || this.closing.signal.aborted) return;
    item.queued = true;
    const work = () => (again ? this.recheckSlots : this.slots).run(() => this.attempt(item, again));
    this.options.queue.run(item.key, work).catch((error: unknown) => {
      this.options.log.error({ err: error, ref: item.ref }, 'the reconciler failed');
    });
  }

  private async attempt(item: Item, again: boolean): Promise<void> {
    item.queued = false;
    const { wanted } = item;
    if (!wanted || this.closing.signal.aborted || (item.settled && !again)) return;
    if (this.mustWait(item)) {
      this.schedule(item, Math.max(1, item.waitsUntil - Date.now()));
      return;
    }
    item.running = new AbortController();
    const { closing } = this;
    const timeout = AbortSignal.timeout(this.options.tryTimeoutMs);
    const signal = AbortSignal.any([item.running.signal, closing.signal, timeout]);
    let failed: unknown;
    let status: unknown;
    try {
      status = await this.make(item.ref, wanted, signal);
    } catch (error) {
      failed = timeout.aborted ? timeout.reason : (error ?? new Error('no reason given'));
    }
    item.running = undefined;
    item.tries += 1;
    item.triedAt = Date.now();
    if (closing.signal.aborted || item.wanted !== wanted) return; // Superseded: its successor is scheduled already.
    item.tried = true;
    if (failed === undefined) this.succeed(item, wanted, status);
    else this.fail(item, failed);
    this.wakeWaiting(item);
  }

  private async make(ref: Ref, wanted: Wanted, signal: AbortSignal): Promise<unknown> {
    const capability = this.capabilities.get(ref.kind)!;
    if (wanted.present) return capability.apply(ref, wanted.spec, signal);
    await capability.remove(ref, signal);
    return undefined;
  }

  private succeed(item: Item, wanted: Wanted, status: unknown): void {
    const before = JSON.stringify(item.outcome);
    item.attempts = 0;
    item.outcome = { phase: wanted.present ? Phase.PHASE_READY : Phase.PHASE_ABSENT, status };
    if (JSON.stringify(item.outcome) !== before) this.options.onObserved(item.observed());
  }

  private fail(item: Item, error: unknown): void {
    const { failure, permanent } = failureOf(error);
    const delayMs = backOffMs(item.attempts, this.options.retry);
    item.attempts += 1;
    const before = JSON.stringify(item.outcome);
    item.outcome = { phase: permanent ? Phase.PHASE_FAILED : Phase.PHASE_PROGRESSING, failure };
    const isKnown = permanent && JSON.stringify(item.outcome) === before;
    this.options.log[isKnown ? 'debug' : 'warn'](
      { ref: item.ref, err: error, attempts: item.attempts, permanent },
      'a resource is not as wanted',
    );
    if (!isKnown) this.options.onObserved(item.observed());
    if (!permanent) this.schedule(item, delayMs);
  }

  /** True while something that this one builds on (or, for a removal, that builds on it) was not tried yet. */
  private mustWait(item: Item): boolean {
    if (item.tried || Date.now() >= item.waitsUntil) return false;
    for (const other of this.items.values()) {
      if (other.tried || !other.wanted || other.ref.tenantId !== item.ref.tenantId) continue;
      if (item.wanted?.present ? other.wanted.present && this.buildsOn(item, other) : this.buildsOn(other, item))
        return true;
    }
    return false;
  }

  private buildsOn(item: Item, other: Item): boolean {
    return this.capabilities.get(item.ref.kind)?.after.includes(other.ref.kind) ?? false;
  }

  /** Those that waited for this one's first try, or failed for want of it, need not wait for their timer. */
  private wakeWaiting(done: Item): void {
    for (const item of this.items.values()) {
      if (item.settled || item.running || item.queued || !item.wanted || item.ref.tenantId !== done.ref.tenantId)
        continue;
      const related = item.wanted.present ? this.buildsOn(item, done) : this.buildsOn(done, item);
      if (related && (!item.tried || done.settled)) this.schedule(item, 0);
    }
  }
}

function hasOtherStatus(item: Item, status: unknown): boolean {
  return item.outcome?.phase === Phase.PHASE_READY && JSON.stringify(item.outcome.status) !== JSON.stringify(status);
}
