/** The relays that go over one node's stream: a request, and the chunks that come back, until their end. */
import { newId, RhyzomeError } from '#libs/core';
import type { ConnectResponse, Failure, RelayChunk, RelayRequest } from '#libs/rpc';

/** What comes over a relay, in its order. */
export interface RelayPart {
  data: Uint8Array;
  /** Of a console, where it changed: whether this viewer has the keyboard. */
  hasKeyboard?: boolean;
}

interface Limits {
  /** On this stream. */
  all: number;
  /** One tenant's slow readers must not lock the others out. */
  perTenant: number;
  /** What may lie here when the reader is slow; then the relay ends. */
  bufferedBytes: number;
}

interface Relay {
  tenantId: string;
  channel: Channel;
  parts: RelayPart[];
  bytes: number;
  ended: boolean;
  failure: RhyzomeError | undefined;
  wake: () => void;
}

type Channel = 'console-log' | 'console';
type Ref = { tenantId: string; kind: string; id: string };

const limits: Record<Channel, Limits> = {
  'console-log': { all: 100, perTenant: 10, bufferedBytes: 8 * 1024 * 1024 },
  console: { all: 250, perTenant: 50, bufferedBytes: 2 * 1024 * 1024 },
};

/** An open console: what comes from it, and what goes to it. */
export interface ConsoleStream {
  output: AsyncGenerator<RelayPart>;
  /** Resolves when there is room for the next on the node's stream. */
  type(data: Uint8Array): Promise<void>;
}

export class Relays {
  private readonly open = new Map<string, Relay>();

  constructor(private readonly send: (body: NonNullable<ConnectResponse['body']>) => Promise<void>) {}

  /** Asks for a console log. Throws RhyzomeError `overloaded`, `node_unreachable`. */
  async *consoleLog(ref: Ref, tailBytes: bigint, signal: AbortSignal): AsyncGenerator<Uint8Array> {
    const request = { relayId: newId(), ref, channel: 'console-log', tailBytes, mayType: false } as const;
    for await (const { data } of this.follow(request, signal)) yield data;
  }

  /**
   * Takes a seat at a console. Its output throws RhyzomeError: `overloaded`, `node_unreachable`, `not_ready` (it does not
   * run, or went off).
   */
  console(ref: Ref, options: { tailBytes: bigint; mayType: boolean }, signal: AbortSignal): ConsoleStream {
    const request = { relayId: newId(), ref, channel: 'console', ...options } as const;
    const { relayId } = request;
    return {
      output: this.follow(request, signal),
      type: async (data) => {
        if (this.open.has(relayId))
          await this.send({ $case: 'relayInput', value: { relayId, data: Buffer.from(data) } });
      },
    };
  }

  private async *follow(request: RelayRequest & { channel: Channel; ref: Ref }, signal: AbortSignal) {
    const { relayId } = request;
    const relay = this.add(request);
    const wake = () => relay.wake();
    signal.addEventListener('abort', wake, { once: true });
    try {
      await this.send({ $case: 'relayRequest', value: request });
      while (!signal.aborted) {
        const part = relay.parts.shift();
        if (part) {
          relay.bytes -= part.data.byteLength;
          yield part;
        } else if (relay.failure) throw relay.failure;
        else if (relay.ended) return;
        else await new Promise<void>((resolve) => (relay.wake = resolve));
      }
    } finally {
      signal.removeEventListener('abort', wake);
      this.open.delete(relayId);
      if (!relay.ended) await this.send({ $case: 'relayCancel', value: { relayId } });
    }
  }

  private add({ relayId, ref, channel }: { relayId: string; ref: Ref; channel: Channel }): Relay {
    const same = [...this.open.values()].filter((relay) => relay.channel === channel);
    const ofTenant = same.filter(({ tenantId }) => tenantId === ref.tenantId);
    const { all, perTenant } = limits[channel];
    if (same.length >= all || ofTenant.length >= perTenant) {
      throw new RhyzomeError('overloaded', 'Too many consoles of this node are open.');
    }
    const relay: Relay = {
      tenantId: ref.tenantId,
      channel,
      parts: [],
      bytes: 0,
      ended: false,
      failure: undefined,
      wake: () => undefined,
    };
    this.open.set(relayId, relay);
    return relay;
  }

  take(chunk: RelayChunk): void {
    const relay = this.open.get(chunk.relayId);
    if (!relay || relay.failure) return;
    if (chunk.data.byteLength > 0 || chunk.hasKeyboard !== undefined) {
      relay.parts.push({ data: chunk.data, hasKeyboard: chunk.hasKeyboard });
      relay.bytes += chunk.data.byteLength;
    }
    if (relay.bytes > limits[relay.channel].bufferedBytes) {
      relay.parts.length = 0;
      relay.failure = new RhyzomeError('overloaded', 'The reader is too slow.', { extensions: { reason: 'too_slow' } });
    }
    if (chunk.failure) relay.failure = errorOf(chunk.failure);
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

/** What a node's failure is to who asked; `reason` keeps the node's own code. */
function errorOf({ code, message }: Failure): RhyzomeError {
  const details = { extensions: { reason: code.slice(0, 63) } };
  switch (code) {
    case 'not_running':
    case 'machine_off':
    case 'not_found':
    case 'unknown_channel':
      return new RhyzomeError('not_ready', message, details);
    case 'overloaded':
    case 'too_slow':
      return new RhyzomeError('overloaded', message, details);
    default:
      return new RhyzomeError('node_unreachable', message, details);
  }
}
