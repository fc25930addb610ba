/** The controller's side of fetching images: NodeService.FetchImage. */
import type { FetchImageResponse, NodeServiceClient } from '#libs/rpc';

/** `client` gives that of the controller that is dialled now. The bytes from `offset` on; an abort ends them. */
export function imageChannel(client: () => NodeServiceClient) {
  return async function* (sha256: string, offset: bigint, signal: AbortSignal): AsyncIterable<Uint8Array> {
    const call = client().fetchImage({ sha256, offset }, { deadline: Number.POSITIVE_INFINITY });
    const cancel = () => call.cancel();
    signal.addEventListener('abort', cancel);
    try {
      for await (const message of call as AsyncIterable<FetchImageResponse>) yield message.data;
    } finally {
      signal.removeEventListener('abort', cancel);
      call.cancel();
    }
  };
}
