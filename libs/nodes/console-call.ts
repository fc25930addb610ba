/** One viewer's console as the replica that holds the node's stream serves it to rhyzome-api: both ways until an end. */
import type * as grpc from '@grpc/grpc-js';
import { RhyzomeError } from '#libs/core';
import { type ConsoleOpen, type ConsoleRequest, type ConsoleResponse, messagesOf, send } from '#libs/rpc';
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
  const requests = messagesOf<ConsoleRequest>(call)[Symbol.asyncIterator]();
  const open = await firstOf(requests, signal);
  const left = new AbortController();
  const both = AbortSignal.any([signal, left.signal]);
  const seat = attach(open, both);
  let fault: unknown;
  const typing = type(requests, seat).then(
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

/** Until the viewer sends no more. */
async function type(requests: AsyncIterator<ConsoleRequest>, seat: ConsoleStream): Promise<void> {
  for (;;) {
    const next = await requests.next();
    if (next.done) return;
    const { body } = next.value;
    if (body?.$case !== 'input') throw new RhyzomeError('malformed_request', 'Only input follows after open.');
    await seat.type(body.value);
  }
}

async function firstOf(requests: AsyncIterator<ConsoleRequest>, signal: AbortSignal): Promise<ConsoleOpen> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    const fail = () => reject(new RhyzomeError('request_timeout', 'No open came.'));
    timer = setTimeout(fail, OPEN_MS);
    signal.addEventListener('abort', fail, { once: true });
  });
  try {
    const first = await Promise.race([requests.next(), late]);
    const body = first.done ? undefined : first.value.body;
    if (body?.$case !== 'open') throw new RhyzomeError('malformed_request', 'The first message must be open.');
    return body.value;
  } finally {
    clearTimeout(timer);
  }
}
