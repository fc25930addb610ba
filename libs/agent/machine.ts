/**
 * All that runs on a machine once it is known which installation it belongs to: driver, reconciler, deeds, images, and
 * the looks at what drifted. Lives as long as the agent; streams to the controller come and go.
 */
import { join } from 'node:path';
import type { Driver, DriverContext, DriverLog } from '#libs/drivers/contract';
import type { Capacity, Observed } from '#libs/rpc';
import { Deeds } from './deeds.js';
import { checkDrift } from './drift.js';
import { type FetchImage, ImageCache } from './images.js';
import { itemKey } from './item.js';
import { Reconciler } from './reconciler.js';
import { type BackOff, KeyedQueue } from './schedule.js';

export interface MachineTiming {
  concurrency: number;
  retry: BackOff;
  tryTimeoutMs: number;
  orderTimeoutMs: number;
  /** Between two looks at what drifted (ms). */
  recheckMs: number;
}

export const defaultTiming: MachineTiming = {
  concurrency: 16,
  retry: { firstMs: 500, mostMs: 30_000 },
  tryTimeoutMs: 10 * 60_000,
  orderTimeoutMs: 10_000,
  recheckMs: 30_000,
};

export interface MachineOptions {
  installation: string;
  stateDir: string;
  log: DriverLog;
  createDriver: (ctx: DriverContext) => Promise<Driver>;
  fetchImage: FetchImage;
  timing: MachineTiming;
  onObserved: (observed: Observed) => void;
}

/** How long the end waits for what is under way (ms); what is not finished then is finished by the next agent. */
const closeGraceMs = 5_000;

export class Machine {
  private readonly unwatch: (() => void)[];
  private readonly recheckTimer: NodeJS.Timeout;
  private checking = false;

  private constructor(
    readonly driver: Driver,
    readonly reconciler: Reconciler,
    readonly deeds: Deeds,
    private readonly images: ImageCache,
    private readonly queue: KeyedQueue,
    private readonly closing: AbortController,
    private readonly options: MachineOptions,
  ) {
    this.unwatch = driver.capabilities.flatMap((capability) =>
      capability.watch ? [capability.watch((found) => reconciler.noteStatus(found))] : [],
    );
    this.recheckTimer = setInterval(() => void this.recheck(), options.timing.recheckMs);
  }

  static async create(options: MachineOptions): Promise<Machine> {
    const { installation, stateDir, log, timing } = options;
    const images = await ImageCache.open({ dir: join(stateDir, 'images'), fetch: options.fetchImage, log });
    const driver = await options.createDriver({ installation, stateDir, images, log });
    const queue = new KeyedQueue();
    const closing = new AbortController();
    const { capabilities } = driver;
    const reconciler = new Reconciler({ capabilities, queue, log, onObserved: options.onObserved, ...timing });
    const deeds = await Deeds.open(stateDir, capabilities, queue, log, closing.signal);
    return new Machine(driver, reconciler, deeds, images, queue, closing, options);
  }

  async capacity(): Promise<Capacity> {
    const { vcpus, memoryMiB, diskGiB } = await this.driver.capacity();
    return { vcpus, memoryMib: BigInt(memoryMiB), diskGib: BigInt(diskGiB) };
  }

  /** Looks for drift and tidies up. One at a time; failures are logged and the next look tries again. */
  async recheck(): Promise<void> {
    if (this.checking) return;
    this.checking = true;
    try {
      await checkDrift(this.driver, this.reconciler, this.options.log);
      await this.deeds.prune();
      await this.evictImages();
    } catch (error) {
      this.options.log.error({ err: error }, 'the regular check failed');
    } finally {
      this.checking = false;
    }
  }

  /** Machines and networks stay. */
  async close(): Promise<void> {
    clearInterval(this.recheckTimer);
    for (const end of this.unwatch) end();
    this.reconciler.close();
    this.closing.abort(new Error('the agent ends'));
    let timer: NodeJS.Timeout | undefined;
    const grace = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, closeGraceMs);
    });
    await Promise.race([this.queue.idle(), grace]);
    clearTimeout(timer);
    await this.driver.close();
  }

  /** Only when it is certain what every disk here builds on: nothing unknown exists and all that is wanted is known. */
  private async evictImages(): Promise<void> {
    if (!(await this.images.isFull())) return;
    const inUse = new Set<string>();
    const known = new Set<string>();
    for (const item of this.reconciler.all()) {
      const sha256 = imageOf(item.wanted?.spec);
      if (sha256) inUse.add(sha256);
      if (item.wanted?.present && item.settled) known.add(item.key);
    }
    for (const capability of this.driver.capabilities) {
      const found = await capability.inventory();
      if (found.some(({ ref }) => !known.has(itemKey(ref)))) return;
    }
    await this.images.evict(inUse);
  }
}

function imageOf(spec: unknown): string | undefined {
  const image = (spec as { image?: { sha256?: unknown } } | undefined)?.image;
  return typeof image?.sha256 === 'string' ? image.sha256 : undefined;
}
