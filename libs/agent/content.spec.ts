/** The content sender against a controller that takes pieces in, forgets, breaks off and mixes things up. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type ContentChannel, ContentSender } from './content.js';

const bytes = randomBytes(700_000);
const sha256 = createHash('sha256').update(bytes).digest('hex');
const never = new AbortController().signal;
const silent = { info: () => undefined, warn: () => undefined, error: () => undefined, debug: () => undefined };
let dir: string;
let path: string;
let arrived: Buffer;
let sends: number[];
/** After so many bytes of a send the connection breaks, the first of it; 0: not at all. */
let breaks: number[];

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'content-'));
  path = join(dir, 'export.qcow2');
  await writeFile(path, bytes);
});
afterAll(() => rm(dir, { recursive: true, force: true }));
beforeEach(() => {
  arrived = Buffer.alloc(0);
  sends = [];
  breaks = [];
});

const channel: ContentChannel = {
  offset: async () => arrived.length,
  send: async (_operation, offset, sizeBytes, pieces) => {
    sends.push(offset);
    arrived = arrived.subarray(0, offset);
    const most = breaks.shift() ?? 0;
    for await (const piece of pieces) {
      arrived = Buffer.concat([arrived, piece]);
      if (most > 0 && arrived.length - offset >= most) throw new Error('14 UNAVAILABLE');
    }
    expect(arrived.length).toBe(sizeBytes);
    return { sha256: createHash('sha256').update(arrived).digest('hex'), sizeBytes: arrived.length };
  },
};
const put = (signal = never) => new ContentSender(channel, silent, 1).put('operation', path, signal);

describe('a content', () => {
  it('is brought whole', async () => {
    expect(await put()).toEqual({ sha256, sizeBytes: 700_000 });
    expect(sends).toEqual([0]);
  });

  it('goes on where the connection broke, as often as that happens', async () => {
    breaks = [1, 1];
    expect(await put()).toEqual({ sha256, sizeBytes: 700_000 });
    expect(sends).toEqual([0, 262_144, 524_288]);
    expect(arrived.equals(bytes)).toBe(true);
  });

  it('that is there already is only asked for its digest', async () => {
    arrived = bytes;
    expect(await put()).toEqual({ sha256, sizeBytes: 700_000 });
    expect(sends).toEqual([700_000]);
  });

  it('is sent anew over what an earlier copy left', async () => {
    arrived = Buffer.alloc(300_000, 'x');
    expect(await put()).toEqual({ sha256, sizeBytes: 700_000 });
    expect(sends).toEqual([300_000, 0]);
    arrived = Buffer.alloc(900_000, 'x');
    sends = [];
    expect(await put()).toEqual({ sha256, sizeBytes: 700_000 });
    expect(sends).toEqual([0]);
  });

  it('that cannot be brought fails at last, with why', async () => {
    breaks = Array.from({ length: 20 }, () => 1);
    const refusing = new ContentSender({ ...channel, offset: async () => 0 }, silent, 1).put('operation', path, never);
    await expect(refusing).rejects.toMatchObject({
      code: 'content_store_failed',
      message: expect.stringContaining('UNAVAILABLE'),
    });
  });

  it('is not sent on after the end of the agent', async () => {
    const end = new AbortController();
    const reason = new Error('the agent ends');
    breaks = Array.from({ length: 20 }, () => 1);
    const running = new ContentSender({ ...channel, offset: async () => 0 }, silent, 10_000).put(
      'operation',
      path,
      end.signal,
    );
    await expect.poll(() => sends.length).toBe(1);
    end.abort(reason);
    await expect(running).rejects.toThrow();
    expect(sends).toHaveLength(1);
  });
});
