/** The directory store on a real directory. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DirectoryStore } from './index.js';

let dir: string;
let store: DirectoryStore;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'store-'));
  store = new DirectoryStore(dir);
});
afterEach(() => rm(dir, { recursive: true, force: true }));

async function* chunks(...parts: (Buffer | Error)[]) {
  for (const part of parts) {
    if (part instanceof Error) throw part;
    yield part;
  }
}

async function listed() {
  const found: unknown[] = [];
  for await (const content of store.list()) found.push(content);
  return found;
}

const temporaries = () => readdir(join(dir, 'tmp'));
const bytes = randomBytes(100_000);
const sha256 = createHash('sha256').update(bytes).digest('hex');

describe('DirectoryStore', () => {
  it('gives back what was put, whole and from an offset', async () => {
    const stored = await store.put(chunks(bytes.subarray(0, 70_000), bytes.subarray(70_000)), {
      maxBytes: 1e6,
      sha256,
    });
    expect(stored).toEqual({ sha256, sizeBytes: 100_000 });
    expect(await store.has(sha256)).toBe(true);
    const whole = await store.open(sha256);
    expect(whole.sizeBytes).toBe(100_000);
    expect((await buffer(whole.stream)).equals(bytes)).toBe(true);
    expect((await buffer((await store.open(sha256, 99_990)).stream)).equals(bytes.subarray(99_990))).toBe(true);
    expect(await buffer((await store.open(sha256, 100_000)).stream)).toHaveLength(0);
    expect((await stat(join(dir, sha256.slice(0, 2), sha256.slice(2, 4), sha256))).mode & 0o007).toBe(0);
  });

  it('stores the same bytes once, also when put twice at once', async () => {
    await Promise.all([1, 2, 3].map(() => store.put(chunks(bytes), { maxBytes: 1e6 })));
    const found = await listed();
    expect(found).toMatchObject([{ sha256, sizeBytes: 100_000 }]);
    expect(await temporaries()).toEqual([]);
  });

  it('keeps nothing of what is too large, broken off or not as promised', async () => {
    await expect(store.put(chunks(bytes, bytes), { maxBytes: 150_000 })).rejects.toMatchObject({
      code: 'body_too_large',
    });
    await expect(store.put(chunks(bytes, new Error('reset')), { maxBytes: 1e6 })).rejects.toThrow('reset');
    await expect(store.put(chunks(bytes), { maxBytes: 1e6, sha256: 'a'.repeat(64) })).rejects.toMatchObject({
      code: 'invalid',
    });
    expect(await listed()).toEqual([]);
    expect(await temporaries()).toEqual([]);
  });

  it('removes once and again', async () => {
    await store.put(chunks(bytes), { maxBytes: 1e6 });
    await store.remove(sha256);
    await store.remove(sha256);
    expect(await store.has(sha256)).toBe(false);
    await expect(store.open(sha256)).rejects.toMatchObject({ code: 'not_found' });
  });

  it('sweeps what killed writers left, and nothing that is being written', async () => {
    await mkdir(join(dir, 'tmp'));
    await writeFile(join(dir, 'tmp', 'old'), 'x');
    await writeFile(join(dir, 'tmp', 'new'), 'x');
    const hourAgo = new Date(Date.now() - 3_600_000);
    await utimes(join(dir, 'tmp', 'old'), hourAgo, hourAgo);
    expect(await store.sweep(600_000)).toBe(1);
    expect(await temporaries()).toEqual(['new']);
  });

  it('takes no path for a digest', async () => {
    for (const name of ['../../etc/passwd', '', 'A'.repeat(64), `${sha256}/..`]) {
      await expect(store.open(name)).rejects.toMatchObject({ code: 'not_found' });
      await expect(store.remove(name)).rejects.toMatchObject({ code: 'not_found' });
    }
  });
});
