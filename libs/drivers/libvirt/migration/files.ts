/**
 * Disks as files from node to node: whole or not at all, checked by their sha256, going on where an earlier try stopped.
 * What a disk's file holds beside its content, its snapshots, comes along with their records.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Duplex } from 'node:stream';
import { DriverError } from '#libs/drivers/contract';
import { readJson, sync, writeJson } from '../folders.js';

const pieceBytes = 1024 ** 2;

export interface FileWord {
  sizeBytes: number;
  sha256: string;
}

export async function wordOf(path: string, signal: AbortSignal): Promise<FileWord> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: pieceBytes, signal })) hash.update(chunk as Buffer);
  return { sizeBytes: (await stat(path)).size, sha256: hash.digest('hex') };
}

/** Sends a file from an offset on, as fast as it is taken. */
export async function sendFile(
  path: string,
  offset: number,
  stream: Duplex,
  onPiece: (bytes: number) => void,
  signal: AbortSignal,
): Promise<void> {
  for await (const chunk of createReadStream(path, { start: offset, highWaterMark: pieceBytes, signal })) {
    const piece = chunk as Buffer;
    if (!stream.write(piece)) await drained(stream, signal);
    onPiece(piece.length);
  }
}

/** How much of it lies here from earlier tries; what is of another content is removed. */
export async function arrivedOf(path: string, { sha256 }: FileWord): Promise<number> {
  const part = partOf(path);
  const note = await readJson<{ sha256: string }>(`${part}.json`);
  if (note?.sha256 !== sha256) {
    await rm(part, { force: true });
    await writeJson(`${part}.json`, { sha256 });
    return 0;
  }
  return stat(part).then(
    ({ size }) => size,
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return 0;
      throw error;
    },
  );
}

/** Takes the rest of a file and gives it its name once it is whole and on the disk. Throws DriverError `transfer_broken`. */
export async function receiveFile(path: string, word: FileWord, offset: number, stream: Duplex): Promise<void> {
  const part = partOf(path);
  const file = await open(part, 'a', 0o600);
  try {
    let at = offset;
    for await (const chunk of upTo(stream, word.sizeBytes - offset)) {
      await file.write(chunk);
      at += chunk.length;
    }
    if (at !== word.sizeBytes) {
      throw new DriverError('transfer_broken', `The other node hung up after ${at} of ${word.sizeBytes} bytes.`);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  const arrived = await wordOf(part, new AbortController().signal);
  if (arrived.sha256 !== word.sha256) {
    await rm(part, { force: true });
    throw new DriverError('transfer_broken', 'What arrived is not what was sent; it is sent anew.');
  }
  await chmod(part, 0o600);
  await rename(part, path);
  await rm(`${part}.json`, { force: true });
  await sync(dirname(path));
}

const partOf = (path: string) => `${path}.incoming`;

async function* upTo(stream: Duplex, bytes: number): AsyncGenerator<Buffer> {
  let left = bytes;
  if (left === 0) return;
  // Not by the stream's own iterator: that would close it, and the answer is still to be given.
  for (;;) {
    const chunk = stream.read() as Buffer | null;
    if (chunk) {
      const mine = chunk.subarray(0, left);
      left -= mine.length;
      if (mine.length < chunk.length) stream.unshift(chunk.subarray(mine.length));
      yield mine;
      if (left === 0) return;
    } else if (stream.readableEnded || stream.destroyed) return;
    else await readable(stream);
  }
}

function readable(stream: Duplex): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      for (const event of ['readable', 'end', 'close', 'error']) stream.off(event, done);
      resolve();
    };
    for (const event of ['readable', 'end', 'close', 'error']) stream.on(event, done);
  });
}

function drained(stream: Duplex, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (error?: unknown) => {
      stream.off('drain', ok).off('close', gone);
      signal.removeEventListener('abort', aborted);
      if (error) reject(error);
      else resolve();
    };
    const ok = () => settle();
    const gone = () => settle(new DriverError('transfer_broken', 'The other node hung up.'));
    const aborted = () => settle(signal.reason);
    stream.once('drain', ok).once('close', gone);
    signal.addEventListener('abort', aborted, { once: true });
    if (stream.destroyed) gone();
  });
}
