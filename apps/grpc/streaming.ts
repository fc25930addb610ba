/** Server streaming behind Nest with back-pressure: an Observable has none, so the call itself is written to. */

import type * as grpc from '@grpc/grpc-js';
import { Observable } from 'rxjs';
import { callSignal, send, sent } from '#libs/rpc';

/**
 * Writes what `produce` yields as fast as the client reads; the Observable only carries the end. With `onSent`, one message
 * at a time, which is told when it is on its way and its memory can be given back.
 */
export function streamed<Response>(
  call: grpc.ServerWritableStream<unknown, Response>,
  produce: (signal: AbortSignal) => AsyncIterable<Response>,
  onSent?: (message: Response) => void,
): Observable<never> {
  return new Observable((subscriber) => {
    const signal = callSignal(call);
    const pump = async () => {
      for await (const message of produce(signal)) {
        if (signal.aborted) return;
        if (!onSent) await send(call, message, signal);
        else if (await sent(call, message, signal)) onSent(message);
      }
    };
    pump().then(
      () => subscriber.complete(),
      (error: unknown) => subscriber.error(error),
    );
  });
}
