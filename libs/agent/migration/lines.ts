/** One JSON object a line, before a stream belongs to whatever comes after it. */
import type { Duplex } from 'node:stream';
import type { Message } from '#libs/drivers/contract';

/** A definition of a machine with its disks is far below this. */
const MOST_BYTES = 512 * 1024;
const LINE_MS = 60_000;

/** Reads a line and leaves what follows it unread. Rejects when none comes in time, or the stream ends before. */
export function readMessage(stream: Duplex, limitMs = LINE_MS): Promise<Message> {
  return new Promise((resolve, reject) => {
    let held = Buffer.alloc(0);
    const settle = () => {
      clearTimeout(timer);
      stream.off('readable', look).off('error', fail).off('close', closed).off('end', closed);
    };
    const fail = (error: Error) => {
      settle();
      reject(error);
    };
    const closed = () => fail(new Error('The other node has hung up.'));
    const timer = setTimeout(() => fail(new Error('The other node says nothing.')), limitMs);
    const look = () => {
      for (let chunk = stream.read() as Buffer | null; chunk; chunk = stream.read() as Buffer | null) {
        held = Buffer.concat([held, chunk]);
        const end = held.indexOf(0x0a);
        if (end < 0 && held.length > MOST_BYTES) return fail(new Error('The other node’s line is too long.'));
        if (end < 0) continue;
        settle();
        if (end + 1 < held.length) stream.unshift(held.subarray(end + 1));
        try {
          return resolve(objectFrom(held.toString('utf8', 0, end)));
        } catch (error) {
          return reject(error);
        }
      }
    };
    stream.on('readable', look).on('error', fail).on('close', closed).on('end', closed);
    if (stream.destroyed) closed();
    else look();
  });
}

export function writeMessage(stream: Duplex, message: Message): Promise<void> {
  return new Promise((resolve, reject) => {
    stream.write(`${JSON.stringify(message)}\n`, (error) => (error ? reject(error) : resolve()));
  });
}

function objectFrom(text: string): Message {
  const value: unknown = JSON.parse(text);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error('The other node’s line is no JSON object.');
  }
  return value as Message;
}
