/** One viewer's console as the replica that holds the node's stream serves it to rhyzome-api: both ways until an end. */
import type * as grpc from '@grpc/grpc-js';
import { RhyzomeError } from '#libs/core';
import { type ConsoleOpen, type ConsoleRequest, type ConsoleResponse, send } from '#libs/rpc';
import type { ConsoleStream } from './relays.js';

export type ConsoleCall = grpc.ServerDuplexStream<ConsoleRequest, ConsoleResponse>;

const OPEN_MS = 10_000;

/**
 * Returns when the viewer has left; throws what ended the console. `attach` takes the seat, or throws.
 * @param signal aborts when the call is gone.
 */
export async function serveConsole(
  call: ConsoleCall,
  signal: AbortSignal,
  attach: (open: ConsoleOpen, signal: AbortSignal) => ConsoleStream,
): Promise<void> {
  const open = await firstOf(call, signal);
  const left = new AbortController();
  const both = AbortSignal.any([signal, left.signal]);
  const seat = attach(open, both);
  let fault: unknown;
  const typing = type(call, seat, both).then(
    () => left.abort(),
    (error: unknown) => {
      fault = error;
      left.abort();
    },
  );
  for await (const { data, hasKeyboard } of seat.output) {
    await send(call, { data: Buffer.from(data), hasKeyboard }, both);
  }
  if (both.aborted) await typing;
  if (fault !== undefined && !signal.aborted) throw fault;
}

/** Until the viewer sends no more, or the console has ended. */
async function type(call: ConsoleCall, seat: ConsoleStream, signal: AbortSignal): Promise<void> {
  for (let next = await nextOf(call, signal); next; next = await nextOf(call, signal)) {
    if (next.body?.$case !== 'input') throw new RhyzomeError('malformed_request', 'Only input follows after open.');
    await seat.type(next.body.value);
  }
}

/**
 * The next message; undefined: there is no more. By events, because an iterator that waits for a message while the call
 * ends with an error destroys the stream before its status is sent, and the other side would wait for ever.
 */
function nextOf(call: ConsoleCall, signal: AbortSignal): Promise<ConsoleRequest | undefined> {
  return new Promise((resolve) => {
    const done = (request?: ConsoleRequest) => {
      call.pause();
      call.removeListener('data', done);
      call.removeListener('end', end);
      signal.removeEventListener('abort', end);
      resolve(request);
    };
    const end = () => done();
    if (signal.aborted || call.readableEnded || call.destroyed) return resolve(undefined);
    call.on('end', end);
    signal.addEventListener('abort', end);
    call.on('data', done);
    call.resume();
  });
}

async function firstOf(call: ConsoleCall, signal: AbortSignal): Promise<ConsoleOpen> {
  const first = await nextOf(call, AbortSignal.any([signal, AbortSignal.timeout(OPEN_MS)]));
  if (first?.body?.$case === 'open') return first.body.value;
  throw new RhyzomeError('malformed_request', 'The first message must be open.');
}
