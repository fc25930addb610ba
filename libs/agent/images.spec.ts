/** The cache of images on its own: interruption, stalling, wrong sizes, eviction. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { ImageSpec } from '#libs/drivers/contract';
import { type FetchImage, ImageCache, type ImageCacheOptions } from './images.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const never = new AbortController().signal;
let dir: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-images-'));
});
afterEach(() => rm(dir, { recursive: true }));

function cache(fetch: FetchImage, options: Partial<ImageCacheOptions> = {}): Promise<ImageCache> {
  return ImageCache.open({ dir, fetch, log: quiet, ...options });
}

function imageOf(content: Buffer): ImageSpec {
  const sha256 = createHash('sha256').update(content).digest('hex');
  return { sha256, format: 'raw', sizeBytes: content.length, virtualSizeBytes: content.length };
}

/** Serves `content`; `after` bytes it waits for the abort, if given. */
function serving(content: Buffer, stopAt = Number.POSITIVE_INFINITY): FetchImage & { offsets: bigint[] } {
  const offsets: bigint[] = [];
  const fetch: FetchImage = async function* (_sha256, offset, signal) {
    offsets.push(offset);
    for (let at = Number(offset); at < content.length; at += 100) {
      if (at >= stopAt) await sleep(60_000, undefined, { signal });
      yield content.subarray(at, at + 100);
    }
  };
  return Object.assign(fetch, { offsets });
}

test('whole and right, or not there at all', async () => {
  const content = randomBytes(1050);
  const image = imageOf(content);
  for (const wrong of [randomBytes(1050), content.subarray(0, 900), Buffer.concat([content, content])]) {
    const images = await cache(serving(wrong));
    await expect(images.path(image, never)).rejects.toMatchObject({ code: 'image_unavailable', permanent: false });
    expect(await readdir(dir)).toEqual([]);
  }
  const fetch = serving(content);
  const images = await cache(fetch);
  const [a, b] = await Promise.all([images.path(image, never), images.path(image, never)]);
  expect(a).toBe(b);
  expect(await readFile(a)).toEqual(content);
  await images.path(image, never);
  expect(fetch.offsets).toEqual([0n]);
  await writeFile(a, 'cut');
  await images.path(image, never);
  expect(await readFile(a)).toEqual(content);
});

test('a fetch that stalls is given up, and the next goes on from there', async () => {
  const content = randomBytes(1000);
  const stalled = await cache(serving(content, 500), { stallMs: 50 });
  await expect(stalled.path(imageOf(content), never)).rejects.toThrow('nothing came for 50 ms');
  const fetch = serving(content);
  await (await cache(fetch)).path(imageOf(content), never);
  expect(fetch.offsets).toEqual([500n]);
});

test('one who gives up does not end the fetch of another; the last one does', async () => {
  const content = randomBytes(1000);
  const images = await cache(serving(content, 500));
  const first = new AbortController();
  const second = new AbortController();
  const waiting = [images.path(imageOf(content), first.signal), images.path(imageOf(content), second.signal)];
  waiting[1]!.catch(() => {});
  first.abort(new Error('gave up'));
  await expect(waiting[0]).rejects.toThrow('gave up');
  second.abort(new Error('gave up too'));
  await expect(waiting[1]).rejects.toThrow('gave up too');
  const again = await cache(serving(content));
  await again.path(imageOf(content), never);
});

test('a name that is no sha256 never becomes a path', async () => {
  const images = await cache(serving(Buffer.alloc(0)));
  const image = { ...imageOf(Buffer.alloc(0)), sha256: '../../etc/passwd' };
  await expect(images.path(image, never)).rejects.toMatchObject({ code: 'invalid_spec', permanent: true });
});

test('evicts only above the limit, the longest unused first, never what is in use or was used just now', async () => {
  const contents = [1, 2, 3, 4].map(() => randomBytes(1000));
  const all = contents.map(imageOf);
  for (const content of contents) await (await cache(serving(content))).path(imageOf(content), never);
  const hourMs = 3_600_000;
  const age = async (index: number, hours: number) => {
    const at = new Date(Date.now() - hours * hourMs);
    await utimes(join(dir, all[index]!.sha256), at, at);
  };
  await Promise.all([age(0, 9), age(1, 8), age(2, 7)]);
  const images = await cache(serving(Buffer.alloc(0)), { limitBytes: 1500, idleMs: hourMs });
  const inUse = new Set([all[0]!.sha256]);
  expect(await images.evict(inUse)).toEqual([all[1]!.sha256, all[2]!.sha256]);
  expect((await readdir(dir)).sort()).toEqual([all[0]!.sha256, all[3]!.sha256].sort());
});
