/**
 * Contents that are still coming, one file each in the folder of the content store, so that any process that shares the
 * folder can go on where another stopped. The size of the file is the truth of what arrived. Who may write is not decided here.
 */
import { createHash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { copyFile, type FileHandle, mkdir, open, readdir, rename, rm, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { RhyzomeError } from '#libs/core';

export interface StoredContent {
  /** Lower-case hexadecimal. */
  sha256: string;
  sizeBytes: number;
}

export interface WriteOptions {
  /** More bytes than that from the stream are refused. */
  maxBytes: number;
  /** Asked before each write; throws to end it. */
  mayGoOn?: () => void;
}

/** More came than was announced. What was written up to there stays; the caller cuts it. */
export class TooManyBytes extends Error {
  override readonly name = 'TooManyBytes';
}

/** So much may wait in memory for the disk: the sender is slowed to its pace (bytes). */
const SYNC_BYTES = 64 * 1024 ** 2;
const READ_BYTES = 1024 ** 2;
const idPattern = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export class PartStore {
  private readonly dir: string;

  /** @param storeDir the folder of the content store. */
  constructor(storeDir: string) {
    this.dir = join(storeDir, 'parts');
  }

  /** Where a part lies on this machine; for qemu-img, never from a user's text. */
  path(id: string): string {
    if (!idPattern.test(id)) throw new Error('a part is named by a UUID');
    return join(this.dir, id);
  }

  /** Bytes that have arrived; 0 where there is none. */
  async size(id: string): Promise<number> {
    return (await this.statOf(id))?.size ?? 0;
  }

  /**
   * Writes a stream from an offset on, over what may lie beyond it; returns the size then, which is on the disk. A stream
   * that breaks off leaves what came of it. Throws `conflict` beyond the end, and TooManyBytes.
   */
  async write(
    id: string,
    offset: number,
    stream: AsyncIterable<Uint8Array>,
    { maxBytes, mayGoOn }: WriteOptions,
  ): Promise<number> {
    await mkdir(this.dir, { recursive: true, mode: 0o750 });
    const file = await open(this.path(id), constants.O_RDWR | constants.O_CREAT, 0o640);
    try {
      const { size } = await file.stat();
      if (offset > size) throw new RhyzomeError('conflict', `Only ${size} bytes have arrived.`);
      if (offset < size) await file.truncate(offset);
      return await copy(file, offset, stream, maxBytes, mayGoOn);
    } finally {
      await file.close();
    }
  }

  /** Throws away what lies beyond `size`. */
  async cut(id: string, size: number): Promise<void> {
    if ((await this.size(id)) > size) await truncate(this.path(id), size);
  }

  /**
   * Puts a copy in the place of what is there, so that whoever still has it open for writing changes nothing any more: for
   * what is about to be judged and was brought by someone who may lie. Repeatable; throws `not_found`.
   */
  async seal(id: string): Promise<void> {
    const path = this.path(id);
    if (!(await this.statOf(id))) throw new RhyzomeError('not_found', 'There is no such part.');
    await copyFile(path, sealing(path), constants.COPYFILE_FICLONE);
    const file = await open(sealing(path), 'r+');
    await file.sync().finally(() => file.close());
    await rename(sealing(path), path);
  }

  /** Does nothing when it is not there. */
  async remove(id: string): Promise<void> {
    await rm(sealing(this.path(id)), { force: true });
    await rm(this.path(id), { force: true });
  }

  /** Digest and size of what is there, at most `bytes` of it. Throws `not_found`. */
  async digest(id: string, signal?: AbortSignal, bytes = Number.POSITIVE_INFINITY): Promise<StoredContent> {
    if (!(await this.statOf(id))) throw new RhyzomeError('not_found', 'There is no such part.');
    const hash = createHash('sha256');
    let sizeBytes = 0;
    if (bytes > 0) {
      const end = bytes === Number.POSITIVE_INFINITY ? {} : { end: bytes - 1 };
      const stream = createReadStream(this.path(id), { highWaterMark: READ_BYTES, signal, ...end });
      for await (const chunk of stream as AsyncIterable<Buffer>) {
        hash.update(chunk);
        sizeBytes += chunk.byteLength;
      }
    }
    return { sha256: hash.digest('hex'), sizeBytes };
  }

  /** Removes parts that nobody wants and that nobody has written to for `olderThanMs`; returns how many. */
  async sweep(olderThanMs: number, wanted: (ids: string[]) => Promise<ReadonlySet<string>>): Promise<number> {
    const old: string[] = [];
    for (const id of await this.ids()) {
      const found = await this.statOf(id);
      if (found && Date.now() - found.mtimeMs >= olderThanMs) old.push(id);
    }
    const kept = old.length > 0 ? await wanted(old) : new Set<string>();
    const unwanted = old.filter((id) => !kept.has(id));
    for (const id of unwanted) await this.remove(id);
    return unwanted.length;
  }

  private async ids(): Promise<string[]> {
    try {
      return (await readdir(this.dir)).filter((name) => idPattern.test(name));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    }
  }

  private async statOf(id: string) {
    try {
      return await stat(this.path(id));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
  }
}

/** The copy that is being made; one that was broken off is made anew, or goes with its part. */
const sealing = (path: string) => `${path}.sealing`;

async function copy(
  file: FileHandle,
  offset: number,
  stream: AsyncIterable<Uint8Array>,
  maxBytes: number,
  mayGoOn: (() => void) | undefined,
): Promise<number> {
  let position = offset;
  let unsynced = 0;
  try {
    for await (const chunk of stream) {
      mayGoOn?.();
      if (position + chunk.byteLength - offset > maxBytes) throw new TooManyBytes();
      for (let done = 0; done < chunk.byteLength; ) {
        const { bytesWritten } = await file.write(chunk, done, chunk.byteLength - done, position);
        done += bytesWritten;
        position += bytesWritten;
      }
      unsynced += chunk.byteLength;
      if (unsynced < SYNC_BYTES) continue;
      await file.datasync();
      unsynced = 0;
    }
  } finally {
    await file.sync();
  }
  return position;
}
