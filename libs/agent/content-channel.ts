/** The controller's side of the content sender: NodeService.ContentOffset and PutContent. */
import { Metadata } from '@grpc/grpc-js';
import {
  ContentOffsetRequest,
  type ContentOffsetResponse,
  type NodeServiceClient,
  PutContentRequest,
  type PutContentResponse,
  send,
} from '#libs/rpc';
import type { ContentChannel } from './content.js';

const OFFSET_MS = 30_000;

/** `client` gives that of the controller that is dialled now. */
export function contentChannel(client: () => NodeServiceClient): ContentChannel {
  return {
    offset: (operationId) =>
      new Promise((resolve, reject) => {
        const asked = ContentOffsetRequest.fromPartial({ operationId });
        client().contentOffset(
          asked,
          new Metadata(),
          { deadline: Date.now() + OFFSET_MS },
          (error, answer?: ContentOffsetResponse) => {
            if (error) reject(error);
            else resolve(Number(answer!.offset));
          },
        );
      }),
    send: async (operationId, offset, sizeBytes, pieces, signal) => {
      let settle: (outcome: { error: Error | null; answer?: PutContentResponse }) => void = () => undefined;
      const outcome = new Promise<{ error: Error | null; answer?: PutContentResponse }>((resolve) => {
        settle = resolve;
      });
      const ended = new AbortController();
      const call = client().putContent({ deadline: Number.POSITIVE_INFINITY }, (error, answer) => {
        settle({ error, answer });
        ended.abort();
      });
      const cancel = () => call.cancel();
      signal.addEventListener('abort', cancel);
      const both = AbortSignal.any([signal, ended.signal]);
      try {
        const first = { operationId, offset: BigInt(offset), sizeBytes: BigInt(sizeBytes) };
        await send(call, PutContentRequest.fromPartial(first), both);
        for await (const data of pieces) {
          if (both.aborted) break;
          await send(call, PutContentRequest.fromPartial({ data: data as Buffer }), both);
        }
        call.end();
        const { error, answer } = await outcome;
        signal.throwIfAborted();
        if (error) throw error;
        return { sha256: answer!.sha256, sizeBytes: Number(answer!.sizeBytes) };
      } finally {
        signal.removeEventListener('abort', cancel);
        call.cancel();
      }
    },
  };
}
