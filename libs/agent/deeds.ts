/**
 * Deeds (a reboot) happen at most once: their id is stored durably before and after the effect. A known id is answered
 * from the record; one that was begun and not ended belongs to an agent that died: a repeatable one is repeated, any
 * other is unclear until an administrator decides; who says “redo” sends it again as repeatable. A repeatable one that is asked for
 * with other arguments while it lasts (the node that a machine is sent to has another address) is begun again with those.
 */
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Capability, DriverLog, MigrationProgress, Ref } from '#libs/drivers/contract';
import { DriverError } from '#libs/drivers/contract';
import { type Deed, DeedOutcome, type DeedProgress, type DeedResult, type Failure } from '#libs/rpc';
import { readJson, writeJsonDurably } from './durable.js';
import { failureOf, itemKey } from './item.js';
import type { KeyedQueue } from './schedule.js';

interface DeedRecord {
  operationId: string;
  ref: Ref;
  verb: string;
  state: 'started' | 'done' | 'failed' | 'unclear';
  failure?: Failure;
  /** What the effect gave, for the deed's asker. */
  result?: object;
}

const outcomes = {
  done: DeedOutcome.DEED_OUTCOME_DONE,
  failed: DeedOutcome.DEED_OUTCOME_FAILED,
  unclear: DeedOutcome.DEED_OUTCOME_UNCLEAR,
} as const;

/** Records older than that are pruned; no controller asks for them any more. */
const keepMs = 30 * 24 * 60 * 60 * 1000;
/** An export of a large snapshot takes its time, and the disks of a machine that moves even more. */
const timeoutMs = 24 * 60 * 60 * 1000;
/** Between two words on how far a deed has come (ms). */
const progressMs = 1000;
const mostResultBytes = 16 * 1024;

interface Running {
  argumentsJson: string;
  /** Aborted when it is asked for with other arguments, or broken off. */
  superseded: AbortController;
  result: Promise<DeedResult>;
}

export class Deeds {
  private readonly running = new Map<string, Running>();

  private constructor(
    private readonly dir: string,
    private readonly capabilities: readonly Capability<any, any>[],
    private readonly queue: KeyedQueue,
    private readonly log: DriverLog,
    private readonly closing: AbortSignal,
    private readonly onProgress: (progress: DeedProgress) => void,
  ) {}

  static async open(
    stateDir: string,
    capabilities: readonly Capability<any, any>[],
    queue: KeyedQueue,
    log: DriverLog,
    closing: AbortSignal,
    onProgress: (progress: DeedProgress) => void = () => {},
  ): Promise<Deeds> {
    const dir = join(stateDir, 'deeds');
    await mkdir(dir, { recursive: true, mode: 0o700 });
    const deeds = new Deeds(dir, capabilities, queue, log, closing, onProgress);
    await deeds.prune();
    return deeds;
  }

  /** The deed's outcome, from now or from the record. Rejects only when the agent ends, it is broken off, or its disk fails. */
  perform(deed: Deed): Promise<DeedResult> {
    const { operationId, argumentsJson } = deed;
    const known = this.running.get(operationId);
    if (known && (known.argumentsJson === argumentsJson || !deed.repeatable)) return known.result;
    const superseded = new AbortController();
    known?.superseded.abort(new Error('it was asked for with other arguments'));
    const result = this.performLatest(deed, superseded.signal).finally(() => {
      if (this.running.get(operationId)?.superseded === superseded) this.running.delete(operationId);
    });
    this.running.set(operationId, { argumentsJson, superseded, result });
    return result;
  }

  /**
   * Ends what is under way, as the death of the agent would: it stays begun, and whoever asked hears of it when it is asked for
   * again. `reason` is for the logs.
   */
  breakOff(reason: string): void {
    const broken = [...this.running.values()];
    this.running.clear();
    for (const { superseded } of broken) superseded.abort(new Error(reason));
  }

  /** One that was superseded ends as the one that took its place. */
  private async performLatest(deed: Deed, superseded: AbortSignal): Promise<DeedResult> {
    try {
      return await this.performOnce(deed, superseded);
    } catch (error) {
      const later = superseded.aborted ? this.running.get(deed.operationId) : undefined;
      if (later) return later.result;
      throw error;
    }
  }

  /** Takes away records that are older than a month. */
  async prune(now = Date.now()): Promise<void> {
    for (const name of await readdir(this.dir)) {
      const file = join(this.dir, name);
      const { mtimeMs } = await stat(file);
      if (now - mtimeMs > keepMs) await rm(file, { force: true });
    }
  }

  private async performOnce(deed: Deed, superseded: AbortSignal): Promise<DeedResult> {
    const { operationId, ref, verb } = deed;
    if (!/^[A-Za-z0-9_-]{1,128}$/.test(operationId) || !ref) {
      const failure = { code: 'invalid_deed', message: 'The deed has no proper id or no resource.' };
      return resultOf({ operationId, state: 'failed', failure });
    }
    const file = join(this.dir, `${operationId}.json`);
    const record = await readJson<DeedRecord>(file);
    const isOpen = record?.state === 'started' || record?.state === 'unclear';
    if (record && !isOpen) return resultOf(record);
    if (record && !deed.repeatable) {
      this.log.warn(
        { operationId, ref, verb },
        'a deed was begun before the agent ended; whether it happened is unclear',
      );
      await writeJsonDurably(file, { ...record, state: 'unclear' } satisfies DeedRecord);
      return resultOf({ operationId, state: 'unclear' });
    }
    this.interrupt(deed, ref);
    return this.queue.run(itemKey(ref), async () => {
      this.closing.throwIfAborted();
      superseded.throwIfAborted();
      const begun: DeedRecord = { operationId, ref: { ...ref }, verb, state: 'started' };
      await writeJsonDurably(file, begun);
      const ended = { ...begun, ...(await this.effect(deed, begun.ref, superseded)) };
      await writeJsonDurably(file, ended);
      return resultOf(ended);
    });
  }

  /** What it is to end may be under way, and it waits behind that. */
  private interrupt(deed: Deed, ref: Ref): void {
    try {
      this.capability(ref)?.interrupt?.({ ...ref }, deed.verb, argumentsOf(deed));
    } catch (error) {
      // Its own turn says what is wrong with it.
      this.log.debug({ err: error, operationId: deed.operationId }, 'a deed could not interrupt another');
    }
  }

  private capability(ref: Ref): Capability<any, any> | undefined {
    return this.capabilities.find(({ kind }) => kind === ref.kind);
  }

  /** Tells the controller now and then how far it has come. */
  private teller(operationId: string): (progress: MigrationProgress) => void {
    let toldAt = 0;
    return ({ doneBytes, totalBytes }) => {
      if (Date.now() - toldAt < progressMs) return;
      toldAt = Date.now();
      this.onProgress({ operationId, doneBytes: BigInt(doneBytes), totalBytes: BigInt(totalBytes) });
    };
  }

  private async effect(
    deed: Deed,
    ref: Ref,
    superseded: AbortSignal,
  ): Promise<Pick<DeedRecord, 'state' | 'failure' | 'result'>> {
    try {
      const capability = this.capability(ref);
      if (!capability?.operate) throw new DriverError('unknown_verb', `Nothing here can ${deed.verb} a ${ref.kind}.`);
      const signal = AbortSignal.any([this.closing, superseded, AbortSignal.timeout(timeoutMs)]);
      const teller = this.teller(deed.operationId);
      const result = await capability.operate(ref, deed.verb, argumentsOf(deed), signal, teller);
      return { state: 'done', ...(result && { result: bounded(result) }) };
    } catch (error) {
      // Cut short by our own end, or to be begun again: it stays begun, and whoever comes next sees that.
      this.closing.throwIfAborted();
      superseded.throwIfAborted();
      this.log.warn({ err: error, operationId: deed.operationId, ref, verb: deed.verb }, 'a deed failed');
      const { failure } = failureOf(error);
      return { state: failure.code === 'unclear' ? 'unclear' : 'failed', failure };
    }
  }
}

function resultOf({ operationId, state, failure, result }: Partial<DeedRecord> & { operationId: string }): DeedResult {
  const outcome = outcomes[state as keyof typeof outcomes];
  return { operationId, outcome, failure, resultJson: result ? JSON.stringify(result) : '' };
}

function argumentsOf({ argumentsJson }: Deed): unknown {
  return argumentsJson === '' ? {} : JSON.parse(argumentsJson);
}

/** The effect has happened: a driver that says too much of it is our own fault, and not the deed's failure. */
function bounded(result: object): object {
  return JSON.stringify(result).length <= mostResultBytes ? result : { truncated: true };
}
