/**
 * The images on this machine, by the sha256 of their content. Fetched from the controller over the channel that is there
 * anyway, resumed after an interruption, and used only when size and sha256 are right; a partial file is never at the
 * path of a whole one.
 */
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { DriverError, type DriverLog, type ImageSource, type ImageSpec } from '#libs/drivers/contract';

/** Streams an image's bytes from an offset on. */
export type FetchImage = (sha256: string, offset: bigint, signal: AbortSignal) => AsyncIterable<Uint8Array>;

export interface ImageCacheOptions {
  dir: string;
  fetch: FetchImage;
  log: DriverLog;
  /** A fetch that brings nothing for so long is given up (ms). */
  stallMs?: number;
  /** Nothing is evicted below that (bytes). */
  limitBytes?: number;
  /** Nothing is evicted that was used more recently (ms). */
  idleMs?: number;
}

interface CachedFile {
  name: string;
  size: number;
  /** ms since the epoch. */
  usedAt: number;
}

interface Flight {
  promise: Promise<string>;
  controller: AbortController;
  waiters: number;
}

export class ImageCache implements ImageSource {
  private readonly flights = new Map<string, Flight>();

  private constructor(private readonly options: Required<ImageCacheOptions>) {}

  static async open(options: ImageCacheOptions): Promise<ImageCache> {
    await mkdir(options.dir, { recursive: true, mode: 0o755 });
    return new ImageCache({ stallMs: 60_000, limitBytes: 50 * 2 ** 30, idleMs: 60 * 60 * 1000, ...options });
  }

  /** All who ask for one image at once share one fetch; it ends early only when the last of them gives up. */
  async path(image: ImageSpec, signal: AbortSignal): Promise<string> {
    if (!/^[0-9a-f]{64}$/.test(image.sha256)) {
      throw new DriverError('invalid_spec', 'The image has no proper sha256.', { permanent: true });
    }
    signal.throwIfAborted();
    const flight = this.flights.get(image.sha256) ?? this.takeOff(image);
    flight.waiters += 1;
    try {
      return await abortable(flight.promise, signal);
    } finally {
      flight.waiters -= 1;
      if (flight.waiters === 0) flight.controller.abort(new Error('nobody waits for the image any more'));
    }
  }

  /** True when there is a reason to evict. */
  async isFull(): Promise<boolean> {
    return totalOf(await this.files()) > this.options.limitBytes;
  }

  /**
   * Takes away images that nobody uses, the longest unused first, while the cache is above its limit. `inUse` must name
   * every image that a disk on this machine builds on.
   */
  async evict(inUse: ReadonlySet<string>, now = Date.now()): Promise<string[]> {
    const files = await this.files();
    let total = totalOf(files);
    const evicted: string[] = [];
    for (const { name, size, usedAt } of files.sort((a, b) => a.usedAt - b.usedAt)) {
      const sha256 = name.slice(0, 64);
      if (total <= this.options.limitBytes) break;
      if (inUse.has(sha256) || this.flights.has(sha256) || now - usedAt < this.options.idleMs) continue;
      await rm(join(this.options.dir, name), { force: true });
      this.options.log.info({ sha256, size }, 'an unused image was evicted');
      total -= size;
      evicted.push(sha256);
    }
    return evicted;
  }

  private async files(): Promise<CachedFile[]> {
    return Promise.all((await readdir(this.options.dir)).map((name) => this.describe(name)));
  }

  private async describe(name: string): Promise<CachedFile> {
    const { size, mtimeMs } = await stat(join(this.options.dir, name));
    return { name, size, usedAt: mtimeMs };
  }

  private takeOff(image: ImageSpec): Flight {
    const controller = new AbortController();
    const promise = this.obtain(image, controller.signal).finally(() => this.flights.delete(image.sha256));
    promise.catch(() => {}); // Each waiter gets it; without waiters there is nobody to tell.
    const flight = { promise, controller, waiters: 0 };
    this.flights.set(image.sha256, flight);
    return flight;
  }

  private async obtain(image: ImageSpec, signal: AbortSignal): Promise<string> {
    const file = join(this.options.dir, image.sha256);
    const size = await sizeOf(file);
    if (size === image.sizeBytes) {
      const now = new Date();
      await utimes(file, now, now);
      return file;
    }
    if (size !== undefined)
      this.options.log.warn({ sha256: image.sha256, size }, 'a cached image has the wrong size; it is fetched anew');
    const part = `${file}.part`;
    try {
      await this.download(image, part, signal);
    } catch (error) {
      if (error instanceof DriverError) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw new DriverError('image_unavailable', `The image ${image.sha256} could not be fetched: ${reason}`, {
        cause: error,
      });
    }
    await rename(part, file);
    return file;
  }

  /** Leaves a whole, checked, synced file, or a part to go on from, or nothing when what came was wrong. */
  private async download(image: ImageSpec, part: string, signal: AbortSignal): Promise<void> {
    const hash = createHash('sha256');
    const handle = await open(part, 'a', 0o644);
    try {
      let offset = (await handle.stat()).size;
      if (offset > image.sizeBytes) {
        await handle.truncate(0);
        offset = 0;
      }
      await hashFile(part, offset, hash);
      if (offset < image.sizeBytes) offset = await this.append(image, handle, offset, hash, signal);
      const sha256 = hash.digest('hex');
      if (offset !== image.sizeBytes || sha256 !== image.sha256) throw wrongContent(image, offset, sha256);
      await handle.sync();
    } catch (error) {
      if (error instanceof DriverError && error.code === 'image_unavailable') await rm(part, { force: true });
      throw error;
    } finally {
      await handle.close();
    }
  }

  private async append(
    image: ImageSpec,
    handle: FileHandle,
    from: number,
    hash: Hash,
    signal: AbortSignal,
  ): Promise<number> {
    const stalled = new AbortController();
    const giveUp = () => stalled.abort(new Error(`nothing came for ${this.options.stallMs} ms`));
    const both = AbortSignal.any([signal, stalled.signal]);
    let timer = setTimeout(giveUp, this.options.stallMs);
    let offset = from;
    try {
      for await (const chunk of this.options.fetch(image.sha256, BigInt(from), both)) {
        clearTimeout(timer);
        both.throwIfAborted();
        if (offset + chunk.length > image.sizeBytes) throw wrongContent(image, offset + chunk.length);
        await handle.appendFile(chunk);
        hash.update(chunk);
        offset += chunk.length;
        timer = setTimeout(giveUp, this.options.stallMs);
      }
      both.throwIfAborted();
      return offset;
    } catch (error) {
      throw both.aborted ? both.reason : error;
    } finally {
      clearTimeout(timer);
    }
  }
}

function wrongContent(image: ImageSpec, bytes: number, sha256?: string): DriverError {
  const what = sha256 ? `${bytes} bytes with the sha256 ${sha256}` : `at least ${bytes} bytes`;
  return new DriverError(
    'image_unavailable',
    `The image ${image.sha256} (${image.sizeBytes} bytes) did not come as it should: ${what}. It was thrown away.`,
  );
}

function totalOf(files: CachedFile[]): number {
  return files.reduce((sum, { size }) => sum + size, 0);
}

async function hashFile(file: string, bytes: number, hash: Hash): Promise<void> {
  if (bytes === 0) return;
  await pipeline(createReadStream(file, { end: bytes - 1 }), async (chunks: AsyncIterable<Buffer>) => {
    for await (const chunk of chunks) hash.update(chunk);
  });
}

async function sizeOf(file: string): Promise<number | undefined> {
  try {
    return (await stat(file)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}
