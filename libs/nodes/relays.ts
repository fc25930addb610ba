/** The relays that go over one node's stream: a request, and the chunks that come back, until their end. */
import { newId, RhyzomeError } from '#libs/core';
import type { ConnectResponse, RelayChunk } from '#libs/rpc';

interface Relay {
  tenantId: string;
  chunks: Uint8Array[];
  bytes: number;
  ended: boolean;
  failure: RhyzomeError | undefined;
  wake: () => void;
}

const MAX_RELAYS = 100;
/** One tenant's slow readers must not lock the others out. */
const MAX_RELAYS_PER_TENANT = 10;
/** What may lie here when the reader is slow; then the relay ends. */
const MAX_BUFFERED_BYTES = 8 * 1024 * 1024;

export class Relays {
  private readonly open = new Map<string, Relay>();

  constructor(private readonly send: (body: NonNullable<ConnectResponse['body']>) => Promise<void>) {}

  /** Asks for a console log. Throws RhyzomeError `overloaded`, `node_unreachable`. */
  async *consoleLog(
    ref: { tenantId: string; kind: string; id: string },
    tailBytes: bigint,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array> {
    const ofTenant = [...this.open.values()].filter(({ tenantId }) => tenantId === ref.tenantId).length;
    if (this.open.size >= MAX_RELAYS || ofTenant >= MAX_RELAYS_PER_TENANT) {
      throw new RhyzomeError('overloaded', 'Too many relays to this node are open.');
    }
    const relayId = newId();
    const relay: Relay = {
      tenantId: ref.tenantId,
      chunks: [],
      bytes: 0,
      ended: false,
      failure: undefined,
      wake: () => undefined,
    };
    this.open.set(relayId, relay);
    signal.addEventListener('abort', () => relay.wake(), { once: true });
    try {
      await this.send({ $case: 'relayRequest', value: { relayId, ref, channel: 'console-log', tailBytes } });
      while (!signal.aborted) {
        const chunk = relay.chunks.shift();
        if (chunk) {
          relay.bytes -= chunk.byteLength;
          yield chunk;
        } else if (relay.failure) throw relay.failure;
        else if (relay.ended) return;
        else await new Promise<void>((resolve) => (relay.wake = resolve));
      }
    } finally {
      this.open.delete(relayId);
      if (!relay.ended) await this.send({ $case: 'relayCancel', value: { relayId } });
    }
  }

  take(chunk: RelayChunk): void {
    const relay = this.open.get(chunk.relayId);
    if (!relay) return;
    if (chunk.data.byteLength > 0) {
      relay.chunks.push(chunk.data);
      relay.bytes += chunk.data.byteLength;
    }
    if (relay.bytes > MAX_BUFFERED_BYTES) relay.failure = new RhyzomeError('overloaded', 'The reader is too slow.');
    if (chunk.failure) relay.failure = new RhyzomeError('node_unreachable', chunk.failure.message);
    if (chunk.end) relay.ended = true;
    relay.wake();
  }

  /** The stream has ended, and with it what went over it. */
  endAll(): void {
    for (const relay of this.open.values()) {
      relay.failure = new RhyzomeError('node_unreachable', 'The node’s stream has ended.');
      relay.ended = true;
      relay.wake();
    }
  }
}
