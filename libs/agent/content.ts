/**
 * Brings content that a deed made here (an exported snapshot) into the content store, over the channel to the controller that
 * is there anyway. Goes on where an earlier try stopped, and begins anew where what lies there is not from this file.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ContentSink, DriverError, type DriverLog } from '#libs/drivers/contract';

/** What the controller takes in; gRPC's NodeService by `contentChannel`. */
export interface ContentChannel {
  offset(operationId: string, signal: AbortSignal): Promise<number>;
  /** Sends pieces from an offset on, as fast as they are taken. */
  send(
    operationId: string,
    offset: number,
    sizeBytes: number,
    pieces: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<{ sha256: string; sizeBytes: number }>;
}

/** Far below the largest message (libs/rpc). */
const PIECE_BYTES = 256 * 1024;
const TRIES = 8;

export class ContentSender implements ContentSink {
  constructor(
    private readonly channel: ContentChannel,
    private readonly log: DriverLog,
    /** Before a further try, doubled each time up to 30 s (ms). */
    private readonly retryMs = 500,
  ) {}

  async put(operationId: string, path: string, signal: AbortSignal): Promise<{ sha256: string; sizeBytes: number }> {
    const sizeBytes = (await stat(path)).size;
    const sha256 = await digestOf(path, signal);
    let fromStart = false;
    for (let attempt = 1; ; attempt++) {
      try {
        const offset = fromStart ? 0 : await this.channel.offset(operationId, signal);
        const arrived = await this.send(operationId, path, sizeBytes, offset > sizeBytes ? 0 : offset, signal);
        if (arrived.sha256 === sha256 && arrived.sizeBytes === sizeBytes) return arrived;
        fromStart = true;
        throw new Error('what arrived is not what was sent');
      } catch (error) {
        signal.throwIfAborted();
        const reason = error instanceof Error ? error.message : String(error);
        if (attempt === TRIES) {
          throw new DriverError('content_store_failed', `The content could not be brought into the store: ${reason}`, {
            cause: error,
          });
        }
        this.log.warn({ err: error, operationId }, 'bringing content into the store is tried again');
        await sleep(Math.min(30_000, this.retryMs * 2 ** (attempt - 1)), undefined, { signal });
      }
    }
  }

  private send(operationId: string, path: string, sizeBytes: number, offset: number, signal: AbortSignal) {
    const pieces =
      offset < sizeBytes ? createReadStream(path, { start: offset, highWaterMark: PIECE_BYTES, signal }) : none();
    return this.channel.send(operationId, offset, sizeBytes, pieces, signal);
  }
}

async function* none(): AsyncGenerator<Uint8Array> {}

async function digestOf(path: string, signal: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path, { highWaterMark: 1024 ** 2, signal })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
