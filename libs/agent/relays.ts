/**
 * Bytes that flow between this machine and a user while he waits: a console's log, at the reader's pace, and a console
 * itself, both ways. Bounded in size and number.
 */
import type { Capability, Ref } from '#libs/drivers/contract';
import { DriverError } from '#libs/drivers/contract';
import type { RelayChunk, RelayRequest } from '#libs/rpc';
import { Consoles, type Seat } from './consoles.js';
import { failureOf } from './item.js';

const chunkBytes = 64 * 1024;
const defaultBytes = 1024 * 1024;
const mostBytes = 16 * 1024 * 1024;
const mostLogs = 32;
const mostConsoles = 256;
/** Before a console: what came earlier. */
const defaultTailBytes = 64 * 1024;
const mostTailBytes = 1024 * 1024;
/** What may wait for one viewer. */
const mostQueuedBytes = 2 * 1024 * 1024;

type Send = (chunk: RelayChunk) => Promise<void>;

interface Relay {
  channel: string;
  controller: AbortController;
  seat?: Seat;
}

/** The relays of one stream; they end with it. */
export class Relays {
  private readonly open = new Map<string, Relay>();
  private readonly consoles: Consoles;

  constructor(
    private readonly capabilities: readonly Capability<any, any>[],
    /** Resolves when there is room for the next. */
    private readonly send: Send,
    private readonly onError: (error: unknown) => void,
  ) {
    this.consoles = new Consoles(onError);
  }

  /** Sends all that is asked for, or the reason why not; the last chunk says `end`. */
  async serve(request: RelayRequest): Promise<void> {
    const { relayId, channel } = request;
    if (this.open.has(relayId)) return; // Doubled on the way.
    const relay: Relay = { channel, controller: new AbortController() };
    let failure: unknown;
    try {
      this.refuseTooMany(channel);
      this.open.set(relayId, relay);
      if (channel === 'console') await this.share(request, relay);
      else await this.copy(request, relay.controller.signal);
    } catch (error) {
      failure = error;
      if (!(error instanceof DriverError)) this.onError(error);
    }
    if (this.open.get(relayId) === relay) this.open.delete(relayId);
    if (relay.controller.signal.aborted) return; // Nobody waits for the end.
    await this.send(chunkOf(relayId, { end: true, failure: failure ? failureOf(failure).failure : undefined }));
  }

  /** What a console's viewer typed. */
  input(relayId: string, data: Uint8Array): void {
    const relay = this.open.get(relayId);
    if (!relay?.seat || relay.seat.type(data)) return;
    relay.controller.abort(new DriverError('overloaded', 'More was typed than the machine takes.'));
  }

  cancel(relayId: string): void {
    this.open.get(relayId)?.controller.abort();
    this.open.delete(relayId);
  }

  close(): void {
    for (const relayId of [...this.open.keys()]) this.cancel(relayId);
    this.consoles.close();
  }

  private refuseTooMany(channel: string): void {
    const isConsole = channel === 'console';
    const same = [...this.open.values()].filter((relay) => (relay.channel === 'console') === isConsole).length;
    if (same >= (isConsole ? mostConsoles : mostLogs)) {
      throw new DriverError('overloaded', 'Too many consoles are read on this node at once.');
    }
  }

  private capabilityOf({ ref, channel }: RelayRequest, verb: 'consoleLog' | 'console'): [Capability<any, any>, Ref] {
    const capability = this.capabilities.find(({ kind }) => kind === ref?.kind);
    if (ref && capability?.[verb]) return [capability, { ...ref }];
    throw new DriverError('unknown_channel', `This node has no “${channel.slice(0, 40)}” for that.`);
  }

  private async copy(request: RelayRequest, signal: AbortSignal): Promise<void> {
    const { relayId, channel, tailBytes } = request;
    if (channel !== 'console-log') {
      throw new DriverError('unknown_channel', `This node has no “${channel.slice(0, 40)}” for that.`);
    }
    const [capability, ref] = this.capabilityOf(request, 'consoleLog');
    let left = bounded(tailBytes, defaultBytes, mostBytes);
    for await (const data of capability.consoleLog!(ref, left)) {
      for (let at = 0; at < data.length && left > 0; at += chunkBytes) {
        const piece = Buffer.from(data.subarray(at, Math.min(at + chunkBytes, at + left)));
        left -= piece.length;
        await this.send(chunkOf(relayId, { data: piece }));
        if (signal.aborted) return;
      }
      if (left <= 0 || signal.aborted) return;
    }
  }

  /** Resolves when the viewer has left; throws DriverError with the reason when the console ends. */
  private async share(request: RelayRequest, relay: Relay): Promise<void> {
    const { relayId, tailBytes, mayType } = request;
    const { signal } = relay.controller;
    const [capability, ref] = this.capabilityOf(request, 'console');
    const outbox = new Outbox(relayId, this.send, signal);
    const tail = bounded(tailBytes, defaultTailBytes, mostTailBytes);
    relay.seat = await this.consoles.sit(capability, ref, tail, {
      mayType,
      take: (data) => outbox.push(data),
      keyboard: (has) => outbox.keyboard(has),
      end: (reason) => outbox.end(reason),
    });
    try {
      await outbox.sent();
    } finally {
      relay.seat.leave();
    }
    // Typed too much: the viewer is told, other than one who left.
    if (signal.reason instanceof DriverError) {
      await this.send(chunkOf(relayId, { end: true, failure: failureOf(signal.reason).failure }));
    }
  }
}

/** What waits for one viewer, sent piece by piece as there is room. */
class Outbox {
  private readonly queue: (Uint8Array | boolean)[] = [];
  private bytes = 0;
  private reason: DriverError | undefined;
  private wake: () => void = () => {};

  constructor(
    private readonly relayId: string,
    private readonly send: Send,
    private readonly signal: AbortSignal,
  ) {
    signal.addEventListener('abort', () => this.wake(), { once: true });
  }

  push(data: Uint8Array): boolean {
    this.queue.push(data);
    this.bytes += data.length;
    if (this.bytes > mostQueuedBytes) {
      this.queue.length = 0;
      this.end(new DriverError('too_slow', 'The console says more than you read.'));
    }
    this.wake();
    return this.reason === undefined;
  }

  keyboard(has: boolean): void {
    this.queue.push(has);
    this.wake();
  }

  end(reason: DriverError): void {
    this.reason ??= reason;
    this.wake();
  }

  /** Until the viewer leaves; throws the reason of the end once all that was said before is sent. */
  async sent(): Promise<void> {
    while (!this.signal.aborted) {
      const next = this.queue.shift();
      if (next === undefined) {
        if (this.reason) throw this.reason;
        await new Promise<void>((resolve) => {
          this.wake = resolve;
        });
      } else if (typeof next === 'boolean') await this.send(chunkOf(this.relayId, { hasKeyboard: next }));
      else {
        this.bytes -= next.length;
        for (let at = 0; at < next.length && !this.signal.aborted; at += chunkBytes) {
          await this.send(chunkOf(this.relayId, { data: Buffer.from(next.subarray(at, at + chunkBytes)) }));
        }
      }
    }
  }
}

/** 0 stands for what is given unless asked otherwise. */
function bounded(asked: bigint, usual: number, most: number): number {
  return asked === 0n ? usual : Math.min(most, Number(asked));
}

function chunkOf(relayId: string, part: Partial<RelayChunk>): RelayChunk {
  return { relayId, data: Buffer.alloc(0), end: false, failure: undefined, hasKeyboard: undefined, ...part };
}
