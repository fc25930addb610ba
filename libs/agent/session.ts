/**
 * One stream to the controller, from Hello to its end. Notices a stream that is only half open, sends reports together,
 * and knows nothing of reconnecting.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { ClientDuplexStream } from '@grpc/grpc-js';
import type { DriverLog, Ref } from '#libs/drivers/contract';
import {
  type Capacity,
  ConnectRequest,
  ConnectResponse,
  type Deed,
  type DeedProgress,
  type DeedResult,
  type Desire,
  type Hello,
  type MetricsReport,
  type NodeServiceClient,
  type Observed,
  type RelayChunk,
  type RelayInput,
  type RelayRequest,
  type Revocations,
  send,
  type UnownedOutcome,
  type Welcome,
} from '#libs/rpc';
import { itemKey } from './item.js';

/** What a stream's messages mean to the agent. */
export interface SessionHandlers {
  /** Throws when this controller is not ours. */
  welcome(welcome: Welcome): Promise<void>;
  desire(desire: Desire): void;
  deed(deed: Deed): Promise<DeedResult>;
  relay(request: RelayRequest): Promise<void>;
  relayInput(input: RelayInput): void;
  cancelRelay(relayId: string): void;
  capacity(): Promise<Capacity>;
  inventory(): Promise<Observed[]>;
  removeUnowned(refs: readonly Ref[]): Promise<UnownedOutcome[]>;
  /** Resolves with what the controller lacks of what was revoked. */
  revocations(told: Revocations): Promise<Revocations[]>;
}

export interface SessionOptions {
  client: NodeServiceClient;
  hello: Hello;
  handlers: SessionHandlers;
  log: DriverLog;
  /** For Welcome after Hello (ms). */
  welcomeTimeoutMs: number;
}

/** Reports wait so long for others, to share a message (ms). */
const reportDelayMs = 20;
const reportItems = 500;
const minHeartbeatMs = 50;
const maxHeartbeatMs = 60_000;
/** A heartbeat waits no longer for a look at what the machine has. */
const capacityLimitMs = 1_000;

export class Session {
  private readonly call: ClientDuplexStream<ConnectRequest, ConnectResponse>;
  private readonly ending = new AbortController();
  private readonly reports = new Map<string, Observed>();
  private flushTimer: NodeJS.Timeout | undefined;
  private heartbeatTimer: NodeJS.Timeout | undefined;
  /** As of the last look. */
  private capacity: Capacity | undefined;
  private looking: Promise<void> | undefined;
  private lastHeard = Date.now();
  private sending: Promise<void> = Promise.resolve();

  constructor(private readonly options: SessionOptions) {
    this.call = options.client.connect({ deadline: Number.POSITIVE_INFINITY });
    this.call.on('error', () => {}); // `run` gets it from its loop; a second one, after that, has nothing new to say.
  }

  /** Resolves when the controller ended the stream or `end` was called; rejects with the reason otherwise. */
  async run(): Promise<void> {
    const welcomeTimer = setTimeout(
      () => this.cut('the controller did not answer Hello'),
      this.options.welcomeTimeoutMs,
    );
    try {
      void this.write({ body: { $case: 'hello', value: this.options.hello } });
      for await (const message of this.call as AsyncIterable<ConnectResponse>) {
        this.lastHeard = Date.now();
        if (message.body?.$case === 'welcome') clearTimeout(welcomeTimer);
        await this.receive(message);
      }
    } catch (error) {
      if (this.ending.signal.aborted) {
        if (this.ending.signal.reason instanceof Error) throw this.ending.signal.reason;
        return;
      }
      throw error;
    } finally {
      clearTimeout(welcomeTimer);
      clearTimeout(this.flushTimer);
      clearInterval(this.heartbeatTimer);
      this.ending.abort('ended');
      this.call.cancel();
    }
  }

  /** Ends the stream without an error. */
  end(): void {
    this.ending.abort('ended');
    this.call.cancel();
  }

  /** Tells the controller soon; of several about one resource the last. */
  report(observed: Observed): void {
    if (!observed.ref || this.ending.signal.aborted) return;
    this.reports.set(itemKey(observed.ref), observed);
    this.flushTimer ??= setTimeout(() => void this.flush(), reportDelayMs);
  }

  /** Resolves when there is room for the next, or the stream has ended. */
  sendRelayChunk(value: RelayChunk): Promise<void> {
    return this.write({ body: { $case: 'relayChunk', value } });
  }

  /** Resolves when there is room for the next, or the stream has ended. */
  sendMetrics(value: MetricsReport): Promise<void> {
    return this.write({ body: { $case: 'metrics', value } });
  }

  /** Nothing runs here any more that was taken away up to this epoch. Resolves as the others do. */
  sendStopped(epoch: bigint): Promise<void> {
    return this.write({ body: { $case: 'stopped', value: { epoch } } });
  }

  /** Resolves when there is room for the next, or the stream has ended. */
  sendProgress(value: DeedProgress): Promise<void> {
    return this.write({ body: { $case: 'deedProgress', value } });
  }

  /** In messages of bounded size. */
  private async sendInventory(items: readonly Observed[]): Promise<void> {
    for (let at = 0; at === 0 || at < items.length; at += reportItems) {
      const end = at + reportItems >= items.length;
      await this.write({ body: { $case: 'inventory', value: { items: items.slice(at, at + reportItems), end } } });
    }
  }

  private cut(reason: string): void {
    this.ending.abort(new Error(reason));
    this.call.cancel();
  }

  private async flush(): Promise<void> {
    while (this.reports.size > 0 && !this.ending.signal.aborted) {
      const items = [...this.reports.values()].slice(0, reportItems);
      for (const { ref } of items) this.reports.delete(itemKey(ref!));
      await this.write({ body: { $case: 'report', value: { items } } });
    }
    this.flushTimer = undefined;
  }

  /** One after the other, each when there is room; what cannot be sent any more is dropped with the stream. */
  private write(message: ConnectRequest): Promise<void> {
    this.sending = this.sending.then(() => send(this.call, message, this.ending.signal));
    return this.sending;
  }

  private async receive({ body }: ConnectResponse): Promise<void> {
    const { handlers, log } = this.options;
    switch (body?.$case) {
      case 'welcome':
        await handlers.welcome(body.value);
        this.startHeartbeats(body.value.heartbeatIntervalMs);
        return;
      case 'desire':
        handlers.desire(body.value);
        return;
      case 'deed':
        handlers.deed(body.value).then(
          (value) => this.write({ body: { $case: 'deedResult', value } }),
          (error: unknown) =>
            log.warn({ err: error, operationId: body.value.operationId }, 'a deed has no outcome yet'),
        );
        return;
      case 'relayRequest':
        handlers.relay(body.value).catch((error: unknown) => log.error({ err: error }, 'a relay failed'));
        return;
      case 'relayInput':
        handlers.relayInput(body.value);
        return;
      case 'relayCancel':
        handlers.cancelRelay(body.value.relayId);
        return;
      case 'tellInventory':
        handlers.inventory().then(
          (items) => this.sendInventory(items),
          (error: unknown) => log.error({ err: error }, 'this machine cannot tell what it has'),
        );
        return;
      case 'removeUnowned':
        handlers.removeUnowned(body.value.items).then(
          (items) => this.write({ body: { $case: 'unownedOutcomes', value: { items } } }),
          (error: unknown) => log.error({ err: error }, 'what nobody owns could not be removed'),
        );
        return;
      case 'revocations':
        for (const value of await handlers.revocations(body.value))
          void this.write({ body: { $case: 'revocations', value } });
        return;
      case 'acknowledge':
        return;
      default:
        log.debug({}, 'a message of a newer protocol was passed over');
    }
  }

  private startHeartbeats(wantedMs: number): void {
    const intervalMs = Math.min(maxHeartbeatMs, Math.max(minHeartbeatMs, wantedMs || 10_000));
    clearInterval(this.heartbeatTimer);
    this.heartbeatTimer = setInterval(() => {
      if (Date.now() - this.lastHeard > intervalMs * 3) this.cut(`the controller was silent for ${intervalMs * 3} ms`);
      else void this.heartbeat();
    }, intervalMs);
  }

  /** Says what the machine had at the last look where a new one takes long: a storage that stalls is no reason to be silent. */
  private async heartbeat(): Promise<void> {
    this.looking ??= this.lookAtCapacity().finally(() => {
      this.looking = undefined;
    });
    await Promise.race([this.looking, sleep(capacityLimitMs, undefined, { ref: false })]);
    await this.write({ body: { $case: 'heartbeat', value: { capacity: this.capacity } } });
  }

  private async lookAtCapacity(): Promise<void> {
    try {
      this.capacity = await this.options.handlers.capacity();
    } catch (error) {
      this.options.log.warn({ err: error }, 'the capacity cannot be read');
    }
  }
}
