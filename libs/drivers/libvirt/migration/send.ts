/** One disk's file to the other node, on the channel `file`. Repeated as often as it breaks; each time it goes on where it stopped. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type DriverContext, DriverError, type DriverLog } from '#libs/drivers/contract';
import type { Disks } from '../disks.js';
import type { SnapshotRecords } from '../snapshot-records.js';
import { snapshotsOf } from './disk.js';
import { type FileWord, sendFile, wordOf } from './files.js';
import type { Outgoing } from './records.js';

export interface SendParts {
  context: DriverContext;
  disks: Disks;
  snapshots: SnapshotRecords;
}

const tries = 8;
const retryMs = 500;

/** `onBytes`: how many more are there, and how many more there are to be. */
export async function sendDisk(
  { context, disks, snapshots }: SendParts,
  id: string,
  outgoing: Pick<Outgoing, 'operationId' | 'to'>,
  signal: AbortSignal,
  onBytes: (done: number, all: number) => void,
): Promise<void> {
  const path = disks.path(id);
  const word = await wordOf(path, signal);
  onBytes(0, word.sizeBytes);
  const question = { diskId: id, ...word, snapshots: await snapshotsOf(snapshots, id) };
  let told = 0;
  const reached = (bytes: number) => {
    if (bytes > told) onBytes(bytes - told, 0);
    told = Math.max(told, bytes);
  };
  await repeatedly(context.log, signal, () => sendOnce(context, outgoing, path, word, question, signal, reached));
}

/** The volume that tells a guest what it is, the very same: a guest that runs may have it mounted. */
export async function sendSeed(context: DriverContext, outgoing: Outgoing, path: string, signal: AbortSignal) {
  const word = await wordOf(path, signal);
  const question = { name: 'seed', ...word };
  await repeatedly(context.log, signal, () => sendOnce(context, outgoing, path, word, question, signal, () => {}));
}

async function sendOnce(
  context: DriverContext,
  { to, operationId }: Pick<Outgoing, 'operationId' | 'to'>,
  path: string,
  word: FileWord,
  question: object,
  signal: AbortSignal,
  reached: (bytes: number) => void,
): Promise<void> {
  const { answer, stream } = await context.migration.open(to, operationId, 'file', { ...question }, signal);
  const abort = () => stream.destroy();
  signal.addEventListener('abort', abort, { once: true });
  try {
    let at = Number(answer.offset);
    reached(at);
    const onPiece = (bytes: number) => {
      at += bytes;
      reached(at);
    };
    await sendFile(path, at, stream, onPiece, signal);
    let text = '';
    for await (const chunk of stream) text += String(chunk);
    signal.throwIfAborted();
    if (!text.includes('"stored":true')) {
      throw new DriverError('transfer_broken', `Node ${to.node} has not stored what it was sent.`);
    }
    reached(word.sizeBytes);
  } finally {
    signal.removeEventListener('abort', abort);
    stream.destroy();
  }
}

async function repeatedly(log: DriverLog, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      signal.throwIfAborted();
      if (attempt === tries || (error instanceof DriverError && error.permanent)) throw error;
      log.warn({ err: error }, 'sending a file to another node is tried again');
      await sleep(Math.min(30_000, retryMs * 2 ** (attempt - 1)), undefined, { signal });
    }
  }
}
