/**
 * Where the bytes of images lie, by their SHA-256. The interface is what the rest may know; the directory behind it can be
 * shared between machines (NFS and the like), as every write is a rename of a file that is already complete.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { type FileHandle, mkdir, open, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Readable } from 'node:stream';
import { RhyzomeError } from '#libs/core';
import { PartStore, type StoredContent } from './part-store.js';

export interface ContentInfo extends StoredContent {
  storedAt: Date;
}

export interface ContentStore {
  /** Contents that are still coming. */
  readonly parts: PartStore;
  /**
   * Stores a stream whole or not at all; the same bytes twice are stored once. Throws `body_too_large` beyond the limit and
   * `invalid` when the bytes are not those that were promised. Undone by `remove`.
   */
  put(stream: AsyncIterable<Uint8Array>, options: { maxBytes: number; sha256?: string }): Promise<StoredContent>;
  /**
   * Takes in a whole file of the same file system, whose digest is known; again, when it was taken in already. Its age counts
   * from now on. Throws `not_found`. Undone by `remove`.
   */
  adopt(path: string, sha256: string): Promise<void>;
  /** The bytes from an offset on. Throws `not_found`. */
  open(sha256: string, offset?: number): Promise<{ stream: Readable; sizeBytes: number }>;
  has(sha256: string): Promise<boolean>;
  /** When it was taken in last; undefined: it is not there. */
  storedAt(sha256: string): Promise<Date | undefined>;
  /** Does nothing when it is not there. */
  remove(sha256: string): Promise<void>;
  list(): AsyncIterable<ContentInfo>;
}

export const contentTooLarge = (maxBytes: number): RhyzomeError =>
  new RhyzomeError('body_too_large', `The content is larger than ${maxBytes} bytes.`);

/** Read at once, and sent to nodes as one message: far below the largest (bytes). */
const READ_BYTES = 256 * 1024;
const digestPattern = /^[0-9a-f]{64}$/;

/** Files under dir/aa/bb/<sha256>, being written under dir/tmp. */
export class DirectoryStore implements ContentStore {
  readonly parts: PartStore;

  constructor(private readonly dir: string) {
    this.parts = new PartStore(dir);
  }

  async put(stream: AsyncIterable<Uint8Array>, options: { maxBytes: number; sha256?: string }): Promise<StoredContent> {
    const temporary = join(this.dir, 'tmp', `${process.pid}-${randomBytes(12).toString('hex')}`);
    await mkdir(dirname(temporary), { recursive: true, mode: 0o750 });
    try {
      const stored = await writeAndHash(temporary, stream, options.maxBytes);
      if (options.sha256 !== undefined && options.sha256.toLowerCase() !== stored.sha256) {
        throw new RhyzomeError('invalid', `The content’s sha256 is ${stored.sha256}, not the one that was given.`);
      }
      const path = this.path(stored.sha256);
      await mkdir(dirname(path), { recursive: true, mode: 0o750 });
      await rename(temporary, path);
      await syncDirectory(dirname(path));
      return stored;
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  async adopt(source: string, sha256: string): Promise<void> {
    const path = this.path(sha256);
    if (await statOf(source)) {
      await mkdir(dirname(path), { recursive: true, mode: 0o750 });
      await rename(source, path);
      await syncDirectory(dirname(path));
    } else if (!(await statOf(path))) throw new RhyzomeError('not_found', `There is no content ${sha256}.`);
    const now = new Date();
    await utimes(path, now, now);
  }

  async open(sha256: string, offset = 0): Promise<{ stream: Readable; sizeBytes: number }> {
    const path = this.path(sha256);
    const file = await open(path, 'r').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') throw new RhyzomeError('not_found', `There is no content ${sha256}.`);
      throw error;
    });
    const { size } = await file.stat();
    if (offset < 0 || offset > size) {
      await file.close();
      throw new RhyzomeError('invalid', `The offset ${offset} lies outside the content’s ${size} bytes.`);
    }
    return { stream: createReadStream(path, { fd: file, start: offset, highWaterMark: READ_BYTES }), sizeBytes: size };
  }

  async has(sha256: string): Promise<boolean> {
    return (await statOf(this.path(sha256))) !== undefined;
  }

  async storedAt(sha256: string): Promise<Date | undefined> {
    return (await statOf(this.path(sha256)))?.mtime;
  }

  async remove(sha256: string): Promise<void> {
    await rm(this.path(sha256), { force: true });
  }

  async *list(): AsyncIterable<ContentInfo> {
    for (const one of await subdirectories(this.dir)) {
      for (const two of await subdirectories(join(this.dir, one))) {
        for (const sha256 of await namesIn(join(this.dir, one, two))) {
          if (!digestPattern.test(sha256)) continue;
          const found = await statOf(this.path(sha256));
          if (found) yield { sha256, sizeBytes: found.size, storedAt: found.mtime };
        }
      }
    }
  }

  /** Removes what killed writers left behind: temporary files that nobody has written to for `olderThanMs`. */
  async sweep(olderThanMs: number): Promise<number> {
    let removed = 0;
    for (const name of await namesIn(join(this.dir, 'tmp'))) {
      const path = join(this.dir, 'tmp', name);
      const found = await statOf(path);
      if (!found || Date.now() - found.mtimeMs < olderThanMs) continue;
      await rm(path, { force: true });
      removed += 1;
    }
    return removed;
  }

  /** Where a content lies on this machine; for qemu-img and for linking, never from a user's text. */
  path(sha256: string): string {
    if (!digestPattern.test(sha256)) throw new RhyzomeError('not_found', 'That is no sha256.');
    return join(this.dir, sha256.slice(0, 2), sha256.slice(2, 4), sha256);
  }
}

/** Writes to a new file and makes it durable; the caller removes it on failure. */
async function writeAndHash(path: string, stream: AsyncIterable<Uint8Array>, maxBytes: number): Promise<StoredContent> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'wx', 0o640);
    for await (const chunk of stream) {
      sizeBytes += chunk.byteLength;
      if (sizeBytes > maxBytes) throw contentTooLarge(maxBytes);
      hash.update(chunk);
      await writeAll(file, chunk);
    }
    await file.sync();
  } finally {
    await file?.close();
  }
  return { sha256: hash.digest('hex'), sizeBytes };
}

async function writeAll(file: FileHandle, chunk: Uint8Array): Promise<void> {
  for (let done = 0; done < chunk.byteLength; ) {
    done += (await file.write(chunk, done, chunk.byteLength - done)).bytesWritten;
  }
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

async function statOf(path: string) {
  try {
    return await stat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function namesIn(path: string): Promise<string[]> {
  try {
    return (await readdir(path)).sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

async function subdirectories(path: string): Promise<string[]> {
  return (await namesIn(path)).filter((name) => /^[0-9a-f]{2}$/.test(name));
}
