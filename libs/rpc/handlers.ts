/**
 * Handlers as async functions: what they throw becomes a status, what they stream waits for the reader, and the end of
 * the call is an AbortSignal.
 */
import type * as grpc from '@grpc/grpc-js';
import { toStatus } from './errors.js';

/** Told of errors that no client is told about. */
export type OnUnknownError = (error: unknown) => void;

export function unary<Request, Response>(
  handler: (request: Request, call: grpc.ServerUnaryCall<Request, Response>) => Promise<Response>,
  onUnknown?: OnUnknownError,
): grpc.handleUnaryCall<Request, Response> {
  return (call, callback) => {
    handler(call.request, call).then(
      (response) => callback(null, response),
      (error: unknown) => callback(toStatus(error, onUnknown)),
    );
  };
}

export function serverStream<Request, Response>(
  handler: (
    request: Request,
    signal: AbortSignal,
    call: grpc.ServerWritableStream<Request, Response>,
  ) => AsyncIterable<Response>,
  onUnknown?: OnUnknownError,
): grpc.handleServerStreamingCall<Request, Response> {
  return (call) => {
    const signal = callSignal(call);
    void endWith(call, onUnknown, async () => {
      for await (const message of handler(call.request, signal, call)) {
        if (signal.aborted) return;
        await send(call, message, signal);
      }
    });
  };
}

/** The handler reads with `messagesOf`, writes with `send` and returns when the stream shall end. */
export function duplex<Request, Response>(
  handler: (call: grpc.ServerDuplexStream<Request, Response>, signal: AbortSignal) => Promise<void>,
  onUnknown?: OnUnknownError,
): (call: grpc.ServerDuplexStream<Request, Response>) => Promise<void> {
  return (call) => endWith(call, onUnknown, () => handler(call, callSignal(call)));
}

/**
 * What the other side sends. Not `for await (… of call)` itself: leaving that loop by a throw destroys the stream before
 * its status is sent, and the client would wait for ever.
 */
export function messagesOf<Message>(call: grpc.ServerDuplexStream<Message, any>): AsyncIterable<Message> {
  return call.iterator({ destroyOnReturn: false });
}

/** Aborts when the client went away or its deadline passed. */
export function callSignal(call: {
  on(event: 'cancelled', listener: () => void): unknown;
  cancelled?: boolean;
}): AbortSignal {
  const controller = new AbortController();
  if (call.cancelled) controller.abort();
  call.on('cancelled', () => controller.abort());
  return controller.signal;
}

interface Writable<Message> {
  write(message: Message): boolean;
  once(event: 'drain', listener: () => void): unknown;
  removeListener(event: 'drain', listener: () => void): unknown;
}

/** Writes one message and waits until there is room for the next (or the signal aborts). */
export async function send<Message>(stream: Writable<Message>, message: Message, signal: AbortSignal): Promise<void> {
  if (signal.aborted || stream.write(message)) return;
  await new Promise<void>((resolve) => {
    const done = () => {
      stream.removeListener('drain', done);
      signal.removeEventListener('abort', done);
      resolve();
    };
    stream.once('drain', done);
    signal.addEventListener('abort', done);
  });
}

interface FlushedWritable<Message> {
  write(message: Message, done: (error?: Error | null) => void): boolean;
}

/** Writes one message and waits until it is on its way; false: the signal aborted before, or the stream broke. */
export function sent<Message>(
  stream: FlushedWritable<Message>,
  message: Message,
  signal: AbortSignal,
): Promise<boolean> {
  return new Promise((resolve) => {
    const abort = () => resolve(false);
    signal.addEventListener('abort', abort, { once: true });
    stream.write(message, (error) => {
      signal.removeEventListener('abort', abort);
      resolve(!error);
    });
  });
}

interface EndableCall {
  end(): unknown;
  emit(event: 'error', error: unknown): boolean;
}

async function endWith(
  call: EndableCall,
  onUnknown: OnUnknownError | undefined,
  work: () => Promise<void>,
): Promise<void> {
  try {
    await work();
    call.end();
  } catch (error) {
    call.emit('error', toStatus(error, onUnknown));
  }
}
