/** Server streaming behind Nest with back-pressure: an Observable has none, so the call itself is written to. */

import type * as grpc from '@grpc/grpc-js';
import { Observable } from 'rxjs';
import { callSignal, send } from '#libs/rpc';

/** Writes what `produce` yields as fast as the client reads; the Observable only carries the end. */
export function streamed<Response>(
  call: grpc.ServerWritableStream<unknown, Response>,
  produce: (signal: AbortSignal) => AsyncIterable<Response>,
): Observable<never> {
  return new Observable((subscriber) => {
    const signal = callSignal(call);
    const pump = async () => {
      for await (const message of produce(signal)) {
        if (signal.aborted) return;
        await send(call, message, signal);
      }
    };
    pump().then(
      () => subscriber.complete(),
      (error: unknown) => subscriber.error(error),
    );
  });
}
