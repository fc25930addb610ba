/**
 * The node agent: dials the controller, again and again, and lets it work on the machine. The first welcome decides the
 * installation; only then is a driver made, because every outer name carries the installation's id.
 */
import { mkdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Driver, DriverContext, DriverLog } from '#libs/drivers/contract';
import type { CredentialsSource } from '#libs/pki';
import {
  createChannel,
  type FetchImageResponse,
  type Hello,
  NodeServiceClient,
  problemOf,
  type RpcChannel,
  type Welcome,
} from '#libs/rpc';
import { ContentSender } from './content.js';
import { contentChannel } from './content-channel.js';
import { takeInventory } from './drift.js';
import { ForeignInstallationError, Installation } from './installation.js';
import { lockStateDir } from './lock.js';
import { defaultTiming, Machine, type MachineTiming } from './machine.js';
import { Relays } from './relays.js';
import { CertificateRenewal } from './renewal.js';
import { type BackOff, backOffMs } from './schedule.js';
import { Session } from './session.js';

export interface AgentTiming extends MachineTiming {
  reconnect: BackOff;
  /** Between two tries with a controller that is not ours or does not let us in (ms). */
  refusedMs: number;
  welcomeTimeoutMs: number;
}

export interface AgentOptions {
  /** `host:port` or `unix:/path`. */
  controller: string;
  serverName?: string;
  stateDir: string;
  labels: Record<string, string>;
  version: string;
  credentials: CredentialsSource;
  /** Whether the certificate is renewed by the agent; default: not. */
  renews?: boolean;
  createDriver: (ctx: DriverContext) => Promise<Driver>;
  log: DriverLog;
  timing?: Partial<AgentTiming>;
}

export interface Agent {
  /** Ends cleanly; machines and networks stay. */
  stop(): Promise<void>;
}

/** Resolves when it runs (not: when it is connected). Rejects when the state directory is not usable. */
export async function startAgent(options: AgentOptions): Promise<Agent> {
  await mkdir(options.stateDir, { recursive: true, mode: 0o755 });
  const unlock = await lockStateDir(options.stateDir);
  try {
    const agent = new NodeAgent(options, await Installation.load(options.stateDir));
    const running = agent.run();
    const { controller: target, serverName, credentials, log, renews = false } = options;
    const renewal = new CertificateRenewal({ target, serverName, credentials, log, renews });
    renewal.start();
    return {
      stop: async () => {
        agent.end();
        await Promise.all([running, renewal.stop()]);
        await unlock();
      },
    };
  } catch (error) {
    await unlock();
    throw error;
  }
}

class NodeAgent {
  private readonly timing: AgentTiming;
  private readonly ending = new AbortController();
  private readonly channel: RpcChannel;
  private readonly client: NodeServiceClient;
  private machine: Machine | undefined;
  private session: Session | undefined;
  /** What goes wrong when something does now. */
  private stage = '';
  private welcomedAt: number | undefined;
  /** The stream that just ended was there to learn the installation; the next one is for work. */
  private hasJustJoined = false;
  /** The certificate is another one since the last dial: the next stream begins at once. */
  private hasNewCertificate = false;
  private pause = new AbortController();
  private readonly unsubscribe: () => void;

  constructor(
    private readonly options: AgentOptions,
    private readonly installation: Installation,
  ) {
    const { controller: target, serverName, credentials } = options;
    this.timing = {
      ...defaultTiming,
      reconnect: { firstMs: 100, mostMs: 5_000 },
      refusedMs: 30_000,
      welcomeTimeoutMs: 10_000,
      ...options.timing,
    };
    this.channel = createChannel({ target, serverName, credentials });
    this.client = this.channel.client(NodeServiceClient);
    this.unsubscribe = credentials.subscribe(() => this.changeCertificate());
  }

  /** The stream begins anew, since the certificate before will expire; what else is under way stays. */
  private changeCertificate(): void {
    this.hasNewCertificate = true;
    this.session?.end();
    this.pause.abort();
  }

  end(): void {
    this.ending.abort();
    this.session?.end();
  }

  /** Until `end`. */
  async run(): Promise<void> {
    let attempt = 0;
    let said = '';
    while (!this.ending.signal.aborted) {
      let delayMs = 0;
      this.welcomedAt = undefined;
      this.stage = 'this machine cannot tell what it has';
      try {
        await this.connectOnce();
        said = '';
      } catch (error) {
        const reason = reasonOf(error);
        if (isRefusal(error)) {
          this.options.log.error({ reason }, 'the controller is not ours, or refuses us');
          delayMs = this.timing.refusedMs;
        } else {
          this.options.log[reason === said ? 'debug' : 'warn']({ reason }, this.stage);
        }
        said = reason;
      }
      if (this.hasJustJoined || this.hasNewCertificate) {
        this.hasJustJoined = false;
        this.hasNewCertificate = false;
        attempt = 0;
        continue;
      }
      // A stream that does not last counts as a failure too: no controller is dialled ten times a second for ever.
      const lasted = this.welcomedAt !== undefined && Date.now() - this.welcomedAt > this.timing.reconnect.mostMs;
      if (lasted) attempt = 0;
      delayMs ||= backOffMs(attempt, this.timing.reconnect);
      attempt += 1;
      this.pause = new AbortController();
      const signal = AbortSignal.any([this.ending.signal, this.pause.signal]);
      await sleep(delayMs, undefined, { signal }).catch(() => {}); // Only our own end or another certificate aborts it.
      this.hasNewCertificate = false;
    }
    this.unsubscribe();
    this.channel.close();
    await this.machine?.close();
  }

  /** One stream, or the reason why there is none. A machine that joins just now says Hello again with what it has. */
  private async connectOnce(): Promise<void> {
    const { short } = this.installation;
    if (short !== undefined) this.machine ??= await this.createMachine(short);
    const { machine } = this;
    const hello = await this.hello(machine);
    this.stage = 'the controller cannot be reached';
    if (this.ending.signal.aborted) return;
    const { log } = this.options;
    const joined = () => {
      if (!machine) throw new Error('The controller sent work before this machine told what it has.');
      return machine;
    };
    const relays = new Relays(
      machine?.driver.capabilities ?? [],
      (chunk) => session.sendRelayChunk(chunk),
      (error) => log.error({ err: error }, 'a console cannot be read'),
    );
    const session: Session = new Session({
      client: this.client,
      hello,
      log,
      welcomeTimeoutMs: this.timing.welcomeTimeoutMs,
      handlers: {
        welcome: (welcome) => this.welcome(welcome, machine, session),
        desire: ({ items, snapshotEnd }) => joined().reconciler.desire(items, snapshotEnd),
        deed: async (deed) => joined().deeds.perform(deed),
        relay: (request) => relays.serve(request),
        relayInput: ({ relayId, data }) => relays.input(relayId, data),
        cancelRelay: (relayId) => relays.cancel(relayId),
        capacity: () => joined().capacity(),
        inventory: async () => takeInventory(joined().driver, joined().reconciler),
        removeUnowned: async (refs) => joined().removeUnowned(refs),
      },
    });
    this.session = session;
    try {
      await session.run();
      log.debug({}, 'the stream ended');
    } finally {
      this.session = undefined;
      relays.close();
    }
  }

  private async welcome(welcome: Welcome, machine: Machine | undefined, session: Session): Promise<void> {
    await this.installation.join(welcome.installationId);
    this.welcomedAt = Date.now();
    if (!machine) {
      this.options.log.info({ installation: welcome.installationId }, 'this machine joined an installation');
      this.hasJustJoined = true;
      session.end();
      return;
    }
    this.options.log.info({ node: welcome.nodeId, session: welcome.session.toString() }, 'connected');
    machine.beginStream();
  }

  private async hello(machine: Machine | undefined): Promise<Hello> {
    return {
      agentVersion: this.options.version,
      installationId: this.installation.id ?? '',
      driver: machine?.driver.name ?? '',
      capacity: await machine?.capacity(),
      labels: this.options.labels,
      inventory: machine ? await takeInventory(machine.driver, machine.reconciler) : [],
      kinds: machine?.driver.capabilities.map(({ kind }) => kind) ?? [],
    };
  }

  private createMachine(installation: string): Promise<Machine> {
    return Machine.create({
      installation,
      stateDir: this.options.stateDir,
      log: this.options.log,
      createDriver: this.options.createDriver,
      fetchImage: (sha256, offset, signal) => this.fetchImage(sha256, offset, signal),
      timing: this.timing,
      content: new ContentSender(contentChannel(this.client), this.options.log),
      onObserved: (observed) => this.session?.report(observed),
      metricsSender: () => {
        const { session } = this;
        return this.welcomedAt === undefined ? undefined : session && ((report) => session.sendMetrics(report));
      },
      ca: () => this.options.credentials.current.ca.toString('utf8'),
    });
  }

  private async *fetchImage(sha256: string, offset: bigint, signal: AbortSignal): AsyncIterable<Uint8Array> {
    const call = this.client.fetchImage({ sha256, offset }, { deadline: Number.POSITIVE_INFINITY });
    const cancel = () => call.cancel();
    signal.addEventListener('abort', cancel);
    try {
      for await (const message of call as AsyncIterable<FetchImageResponse>) yield message.data;
    } finally {
      signal.removeEventListener('abort', cancel);
      call.cancel();
    }
  }
}

/** What trying again soon cannot change: another installation, a certificate that is not let in. */
function isRefusal(error: unknown): boolean {
  const code = problemOf(error)?.code;
  return error instanceof ForeignInstallationError || code === 'forbidden' || code === 'unauthenticated';
}

function reasonOf(error: unknown): string {
  return problemOf(error)?.message ?? (error instanceof Error ? error.message : String(error));
}
