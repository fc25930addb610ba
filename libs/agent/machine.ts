/**
 * All that runs on a machine once it is known which installation it belongs to: driver, reconciler, deeds, images, the
 * guests' metadata service, metrics, and the looks at what drifted. Lives as long as the agent; streams to the controller
 * come and go.
 */
import { join } from 'node:path';
import type { ContentSink, Driver, DriverContext, DriverLog, MigrationWire, Ref } from '#libs/drivers/contract';
import type { Capacity, DeedProgress, MetricsReport, Observed, UnownedOutcome } from '#libs/rpc';
import { Deeds } from './deeds.js';
import { checkDrift } from './drift.js';
import { type FetchImage, ImageCache } from './images.js';
import { itemKey } from './item.js';
import { GuestMetrics } from './metadata/guest-metrics.js';
import { GuestDirectory } from './metadata/guests.js';
import { type MetadataService, startMetadataService } from './metadata/service.js';
import { metadataSocketPath } from './metadata/socket-path.js';
import { MetricsPump } from './metrics.js';
import { Reconciler } from './reconciler.js';
import { type BackOff, KeyedQueue } from './schedule.js';
import { removeUnowned } from './unowned.js';

export interface MachineTiming {
  concurrency: number;
  retry: BackOff;
  tryTimeoutMs: number;
  orderTimeoutMs: number;
  /** Between two looks at what drifted (ms). */
  recheckMs: number;
  /** Between two looks at metrics (ms). */
  metricsMs: number;
  /** Between two samples of the same resource (ms). */
  metricsRepeatMs: number;
}

export const defaultTiming: MachineTiming = {
  concurrency: 16,
  retry: { firstMs: 500, mostMs: 30_000 },
  tryTimeoutMs: 10 * 60_000,
  orderTimeoutMs: 10_000,
  recheckMs: 30_000,
  metricsMs: 10_000,
  metricsRepeatMs: 30_000,
};

export interface MachineOptions {
  installation: string;
  stateDir: string;
  log: DriverLog;
  createDriver: (ctx: DriverContext) => Promise<Driver>;
  fetchImage: FetchImage;
  content: ContentSink;
  migration: MigrationWire;
  onDeedProgress: (progress: DeedProgress) => void;
  timing: MachineTiming;
  onObserved: (observed: Observed) => void;
  /** Sends metrics; undefined: there is no stream now. */
  metricsSender: () => ((report: MetricsReport) => Promise<void>) | undefined;
  /** The platform's CA as PEM, for guests. */
  ca: () => string;
}

/** How long the end waits for what is under way (ms); what is not finished then is finished by the next agent. */
const closeGraceMs = 5_000;

interface MachineParts {
  driver: Driver;
  reconciler: Reconciler;
  deeds: Deeds;
  images: ImageCache;
  queue: KeyedQueue;
  closing: AbortController;
  guests: GuestDirectory;
  guestMetrics: GuestMetrics;
  metadata: MetadataService;
}

export class Machine {
  readonly driver: Driver;
  readonly reconciler: Reconciler;
  readonly deeds: Deeds;
  private readonly unwatch: (() => void)[];
  private readonly recheckTimer: NodeJS.Timeout;
  private readonly metrics: MetricsPump;
  private checking = false;

  private constructor(
    private readonly parts: MachineParts,
    private readonly options: MachineOptions,
  ) {
    const { driver, reconciler, deeds, guestMetrics } = parts;
    this.driver = driver;
    this.reconciler = reconciler;
    this.deeds = deeds;
    this.unwatch = driver.capabilities.flatMap((capability) =>
      capability.watch ? [capability.watch((found) => reconciler.noteStatus(found))] : [],
    );
    this.recheckTimer = setInterval(() => void this.recheck(), options.timing.recheckMs);
    this.metrics = new MetricsPump({
      capabilities: driver.capabilities,
      guests: guestMetrics,
      log: options.log,
      sender: options.metricsSender,
      everyMs: options.timing.metricsMs,
      repeatMs: options.timing.metricsRepeatMs,
    });
  }

  static async create(options: MachineOptions): Promise<Machine> {
    const { installation, stateDir, log, timing, ca, content, migration } = options;
    const images = await ImageCache.open({ dir: join(stateDir, 'images'), fetch: options.fetchImage, log });
    const guests = await GuestDirectory.open(join(stateDir, 'guests.json'), log);
    const guestMetrics = new GuestMetrics();
    const metadataSocket = await metadataSocketPath(stateDir);
    const metadata = await startMetadataService({ path: metadataSocket, guests, metrics: guestMetrics, ca, log });
    try {
      const context = { installation, stateDir, images, content, metadataSocket, migration, log };
      const driver = await options.createDriver(context);
      const queue = new KeyedQueue();
      const closing = new AbortController();
      const { capabilities } = driver;
      const { onObserved } = options;
      const onDesired = () => guests.update(reconciler.all());
      const reconciler = new Reconciler({ capabilities, queue, log, onObserved, onDesired, ...timing });
      const { onDeedProgress } = options;
      const deeds = await Deeds.open(stateDir, capabilities, queue, log, closing.signal, onDeedProgress);
      const parts = { driver, reconciler, deeds, images, queue, closing, guests, guestMetrics, metadata };
      return new Machine(parts, options);
    } catch (error) {
      await metadata.close(); // The next try listens again.
      throw error;
    }
  }

  /** A stream to the controller begins. */
  beginStream(): void {
    this.reconciler.beginSnapshot();
    this.parts.guestMetrics.sendAgain();
    this.metrics.sendAgain();
  }

  /**
   * Stops all that may run here but what `isWanted` names: what builds on others first. Work that is under way for the old
   * wishes ends before. Rejects with the first failure, after all was tried.
   */
  async stopForeign(isWanted: (ref: Ref) => boolean): Promise<void> {
    const { driver, reconciler, queue, deeds } = this.parts;
    reconciler.forgetAll();
    // A machine that is being sent waits for a word that nobody may give before it has stopped.
    deeds.breakOff('the node was fenced');
    let failure: unknown;
    // Machines before the networks that they build on.
    const running = driver.capabilities.filter(({ halt }) => halt).sort((a, b) => b.after.length - a.after.length);
    for (const capability of running) {
      const foreign = (await capability.inventory()).filter(({ ref }) => !isWanted(ref));
      const results = await Promise.allSettled(
        foreign.map(({ ref }) => queue.run(itemKey(ref), () => capability.halt!(ref))),
      );
      failure ??= results.find((result) => result.status === 'rejected')?.reason;
      const ids = foreign.map(({ ref }) => ref.id);
      if (ids.length > 0) this.options.log.warn({ kind: capability.kind, ids }, 'stopped what is no longer ours');
    }
    if (failure !== undefined) throw failure;
  }

  async capacity(): Promise<Capacity> {
    const { vcpus, memoryMiB, diskGiB } = await this.driver.capacity();
    return { vcpus, memoryMib: BigInt(memoryMiB), diskGib: BigInt(diskGiB) };
  }

  /** Removes what nobody owns; tells of each what became of it. */
  async removeUnowned(refs: readonly Ref[]): Promise<UnownedOutcome[]> {
    const { reconciler, queue, closing } = this.parts;
    const { capabilities } = this.driver;
    const { tryTimeoutMs: timeoutMs } = this.options.timing;
    return removeUnowned(refs, {
      capabilities,
      reconciler,
      queue,
      log: this.options.log,
      closing: closing.signal,
      timeoutMs,
    });
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
    const { reconciler, closing, queue, metadata, guests, driver } = this.parts;
    clearInterval(this.recheckTimer);
    this.metrics.close();
    for (const end of this.unwatch) end();
    reconciler.close();
    closing.abort(new Error('the agent ends'));
    let timer: NodeJS.Timeout | undefined;
    const grace = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, closeGraceMs);
    });
    await Promise.race([queue.idle(), grace]);
    clearTimeout(timer);
    await driver.close();
    await metadata.close();
    await guests.close();
  }

  /**
   * Only when it is certain what everything here builds on: the driver can tell, nothing unknown exists, and all that is
   * wanted is known.
   */
  private async evictImages(): Promise<void> {
    const { images } = this.parts;
    const { capabilities } = this.driver;
    if (!(await images.isFull()) || !capabilities.some((capability) => capability.imagesInUse)) return;
    const inUse = new Set<string>();
    const known = new Set<string>();
    for (const item of this.reconciler.all()) {
      const sha256 = imageOf(item.wanted?.spec);
      if (sha256) inUse.add(sha256);
      if (item.wanted?.present && item.settled) known.add(item.key);
    }
    for (const capability of capabilities) {
      const found = await capability.inventory();
      if (found.some(({ ref }) => !known.has(itemKey(ref)))) return;
      for (const sha256 of (await capability.imagesInUse?.()) ?? []) inUse.add(sha256);
    }
    await images.evict(inUse);
  }
}

/** A disk that is wanted builds on its image also before it is made. */
function imageOf(spec: unknown): string | undefined {
  const image = (spec as { image?: { sha256?: unknown } | null } | undefined)?.image;
  return typeof image?.sha256 === 'string' ? image.sha256 : undefined;
}
