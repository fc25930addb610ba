/** The serial log of an instance: its end, and the limit on its growth. */
import { copyFile, open, rename, stat, truncate } from 'node:fs/promises';
import type { Place } from './places.js';

/** Above this the log is moved aside; so an instance's logs take at most about twice as much. */
const maxLogBytes = 1024 * 1024;
const chunkBytes = 64 * 1024;

async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
}

/** The last `tailBytes` of the log, oldest first, in chunks of at most 64 KiB. No log is no bytes. */
export async function* readConsoleLog(place: Place, tailBytes: number): AsyncIterable<Uint8Array> {
  const [older, current] = [await sizeOf(place.olderConsoleLog), await sizeOf(place.consoleLog)];
  yield* readEnd(place.olderConsoleLog, older, Math.max(0, tailBytes - current));
  yield* readEnd(place.consoleLog, current, tailBytes);
}

async function* readEnd(path: string, size: number, tailBytes: number): AsyncIterable<Uint8Array> {
  const wanted = Math.min(size, tailBytes);
  if (wanted === 0) return;
  const file = await open(path, 'r');
  try {
    for (let at = size - wanted; at < size; ) {
      const buffer = new Uint8Array(Math.min(chunkBytes, size - at));
      const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
      if (bytesRead === 0) return;
      at += bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await file.close();
  }
}

/**
 * Moves a log that is too long aside. The hypervisor appends to its open file, so the file is copied and cut, not
 * renamed; what is written between the two is lost.
 */
export async function limitConsoleLog(place: Place): Promise<void> {
  if ((await sizeOf(place.consoleLog)) <= maxLogBytes) return;
  await copyFile(place.consoleLog, `${place.olderConsoleLog}.new`);
  await truncate(place.consoleLog, 0);
  await rename(`${place.olderConsoleLog}.new`, place.olderConsoleLog);
}
