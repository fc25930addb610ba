/** Parts on a real directory: pieces, interruptions, two processes, leftovers. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readdir, rm, stat, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { DirectoryStore, PartStore, TooManyBytes } from './index.js';

let dir: string;
let parts: PartStore;
let id: string;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'parts-'));
  parts = new PartStore(dir);
  id = newId();
});
afterEach(() => rm(dir, { recursive: true, force: true }));

async function* chunks(...pieces: (Buffer | Error)[]) {
  for (const piece of pieces) {
    if (piece instanceof Error) throw piece;
    yield piece;
  }
}

const bytes = randomBytes(300_000);
const sha256 = createHash('sha256').update(bytes).digest('hex');
const all = { maxBytes: 1e6 };

describe('PartStore', () => {
  it('puts pieces together, whichever process brings them', async () => {
    expect(await parts.size(id)).toBe(0);
    expect(await parts.write(id, 0, chunks(bytes.subarray(0, 100_000)), all)).toBe(100_000);
    const other = new PartStore(dir);
    expect(await other.size(id)).toBe(100_000);
    expect(await other.write(id, 100_000, chunks(bytes.subarray(100_000)), all)).toBe(300_000);
    expect(await parts.digest(id)).toEqual({ sha256, sizeBytes: 300_000 });
  });

  it('that is sealed is changed no more by whoever still writes into it', async () => {
    let goOn = () => {};
    const waits = new Promise<void>((resolve) => (goOn = resolve));
    async function* late() {
      yield bytes;
      await waits;
      yield Buffer.from('more');
    }
    const writing = parts.write(id, 0, late(), all);
    await expect.poll(() => parts.size(id)).toBe(bytes.length);
    await parts.seal(id);
    goOn();
    await writing;
    await parts.seal(id);
    expect(await parts.digest(id)).toEqual({ sha256, sizeBytes: bytes.length });
    expect(await readdir(join(dir, 'parts'))).toEqual([id]);
    await expect(parts.seal(newId())).rejects.toMatchObject({ code: 'not_found' });
  });

  it('keeps what came before a stream broke off', async () => {
    const broken = parts.write(id, 0, chunks(bytes.subarray(0, 70_000), new Error('gone')), all);
    await expect(broken).rejects.toThrow('gone');
    expect(await parts.size(id)).toBe(70_000);
    await parts.write(id, 70_000, chunks(bytes.subarray(70_000)), all);
    expect((await parts.digest(id)).sha256).toBe(sha256);
  });

  it('writes over what lies beyond the offset, and nothing beyond the end', async () => {
    await parts.write(id, 0, chunks(Buffer.alloc(500_000, 'x')), all);
    await parts.write(id, 0, chunks(bytes), all);
    expect((await parts.digest(id)).sha256).toBe(sha256);
    await expect(parts.write(id, 300_001, chunks(bytes), all)).rejects.toMatchObject({ code: 'conflict' });
  });

  it('stops at the limit, and at a word from outside', async () => {
    const tooMany = parts.write(id, 0, chunks(bytes), { maxBytes: 299_999 });
    await expect(tooMany).rejects.toBeInstanceOf(TooManyBytes);
    let asked = 0;
    const stopped = parts.write(id, 0, chunks(bytes.subarray(0, 10), bytes.subarray(10)), {
      maxBytes: 1e6,
      mayGoOn: () => {
        asked += 1;
        if (asked === 2) throw new Error('somebody else writes');
      },
    });
    await expect(stopped).rejects.toThrow('somebody else');
    expect(await parts.size(id)).toBe(10);
    await parts.cut(id, 4);
    expect(await parts.size(id)).toBe(4);
  });

  it('becomes a content of the store, also when that is said twice', async () => {
    const store = new DirectoryStore(dir);
    await parts.write(id, 0, chunks(bytes), all);
    await store.adopt(parts.path(id), sha256);
    await store.adopt(parts.path(id), sha256);
    expect(await store.has(sha256)).toBe(true);
    expect(await parts.size(id)).toBe(0);
    await expect(store.adopt(parts.path(id), 'ab'.repeat(32))).rejects.toMatchObject({ code: 'not_found' });
  });

  it('is young again when it is adopted again', async () => {
    const store = new DirectoryStore(dir);
    await parts.write(id, 0, chunks(bytes), all);
    await store.adopt(parts.path(id), sha256);
    await utimes(store.path(sha256), 0, 0);
    const second = newId();
    await parts.write(second, 0, chunks(bytes), all);
    await store.adopt(parts.path(second), sha256);
    expect(Date.now() - (await stat(store.path(sha256))).mtimeMs).toBeLessThan(60_000);
  });

  it('sweeps what is old and wanted by nobody', async () => {
    const [wanted, young, left] = [newId(), newId(), newId()];
    for (const one of [wanted, young, left]) await parts.write(one, 0, chunks(bytes), all);
    for (const one of [wanted, left]) await utimes(parts.path(one), 0, 0);
    const asked: string[][] = [];
    const count = await parts.sweep(60_000, async (ids) => {
      asked.push(ids);
      return new Set([wanted]);
    });
    expect(count).toBe(1);
    expect(asked.flat().sort()).toEqual([wanted, left].sort());
    expect([await parts.size(wanted), await parts.size(young), await parts.size(left)]).toEqual([300_000, 300_000, 0]);
  });

  it('takes no name but an id', () => {
    for (const name of ['../x', 'a', '', `${newId()}/..`]) expect(() => parts.path(name)).toThrow('UUID');
  });
});
