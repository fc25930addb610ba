/** Bytes that flow from this machine to a user while he waits: a console log. Bounded in size and number, at the reader's pace. */
import type { Capability } from '#libs/drivers/contract';
import { DriverError } from '#libs/drivers/contract';
import type { RelayChunk, RelayRequest } from '#libs/rpc';
import { failureOf } from './item.js';

const chunkBytes = 64 * 1024;
const defaultBytes = 1024 * 1024;
const mostBytes = 16 * 1024 * 1024;
const mostRelays = 32;

/** The relays of one stream; they end with it. */
export class Relays {
  private readonly open = new Map<string, AbortController>();

  constructor(
    private readonly capabilities: readonly Capability<any, any>[],
    /** Resolves when there is room for the next. */
    private readonly send: (chunk: RelayChunk) => Promise<void>,
    private readonly onError: (error: unknown) => void,
  ) {}

  /** Sends all that is asked for, or the reason why not; the last chunk says `end`. */
  async serve(request: RelayRequest): Promise<void> {
    const { relayId } = request;
    const controller = new AbortController();
    try {
      if (this.open.has(relayId)) return; // Doubled on the way.
      if (this.open.size >= mostRelays)
        throw new DriverError('overloaded', 'Too many consoles are read on this node at once.');
      this.open.set(relayId, controller);
      await this.copy(request, controller.signal);
      if (!controller.signal.aborted)
        await this.send({ relayId, data: Buffer.alloc(0), end: true, failure: undefined });
    } catch (error) {
      if (!(error instanceof DriverError)) this.onError(error);
      await this.send({ relayId, data: Buffer.alloc(0), end: true, failure: failureOf(error).failure });
    } finally {
      if (this.open.get(relayId) === controller) this.open.delete(relayId);
    }
  }

  cancel(relayId: string): void {
    this.open.get(relayId)?.abort();
    this.open.delete(relayId);
  }

  close(): void {
    for (const relayId of [...this.open.keys()]) this.cancel(relayId);
  }

  private async copy({ relayId, ref, channel, tailBytes }: RelayRequest, signal: AbortSignal): Promise<void> {
    const capability = this.capabilities.find(({ kind }) => kind === ref?.kind);
    if (!ref || channel !== 'console-log' || !capability?.consoleLog) {
      throw new DriverError('unknown_channel', `This node has no “${channel.slice(0, 40)}” for that.`);
    }
    let left = tailBytes === 0n ? defaultBytes : Number(tailBytes > mostBytes ? mostBytes : tailBytes);
    for await (const data of capability.consoleLog({ ...ref }, left)) {
      for (let at = 0; at < data.length && left > 0; at += chunkBytes) {
        const piece = Buffer.from(data.subarray(at, Math.min(at + chunkBytes, at + left)));
        left -= piece.length;
        await this.send({ relayId, data: piece, end: false, failure: undefined });
        if (signal.aborted) return;
      }
      if (left <= 0 || signal.aborted) return;
    }
  }
}
