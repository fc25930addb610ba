/**
 * The node agent: dials a controller, again and again, and lets it work on the machine. The first welcome decides the
 * installation; only then is a driver made, because every outer name carries the installation's id.
 */
import { mkdir } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Driver, DriverContext, DriverLog } from '#libs/drivers/contract';
import type { CredentialsSource } from '#libs/pki';
import type { Welcome } from '#libs/rpc';
import { ContentSender } from './content.js';
import { contentChannel } from './content-channel.js';
import { Controllers } from './controllers.js';
import { takeInventory } from './drift.js';
import { Epoch } from './epoch.js';
import { helloOf } from './hello.js';
import { imageChannel } from './image-channel.js';
import { Installation } from './installation.js';
import { lockStateDir } from './lock.js';
import { defaultTiming, Machine, type MachineTiming } from './machine.js';
import { Wire } from './migration/index.js';
import { isRefusal, reasonOf } from './reasons.js';
import { Relays } from './relays.js';
import { CertificateRenewal } from './renewal.js';
import { Returning } from './returning.js';
import { KnownRevocations, refusingRevoked } from './revocations.js';
import { type BackOff, backOffMs } from './schedule.js';
import { Session } from './session.js';

export interface AgentTiming extends MachineTiming {
  reconnect: BackOff;
  /** Between two tries with a controller that is not ours or does not let us in (ms). */
  refusedMs: number;
  welcomeTimeoutMs: number;
}

export interface AgentOptions {
  /** `host:port` or `unix:/path`, or several: replicas, of which another is dialled when one goes away. */
  controller: string | readonly string[];
  serverName?: string;
  stateDir: string;
  labels: Record<string, string>;
  /** Where other nodes bring machines to this one; absent: it takes in none. */
  migration?: MigrationSettings;
  version: string;
  credentials: CredentialsSource;
  /** Whether the certificate is renewed by the agent; default: not. */
  renews?: boolean;
  createDriver: (ctx: DriverContext) => Promise<Driver>;
  log: DriverLog;
  timing?: Partial<AgentTiming>;
}

export interface MigrationSettings {
  /** host:port. */
  listen: string;
  /** host:port at which other nodes reach that; default: `listen` as it came to be. */
  advertise?: string;
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
    const { migration, log, stateDir } = options;
    const [installation, epoch] = [await Installation.load(stateDir), await Epoch.load(stateDir)];
    const revocations = await KnownRevocations.load(stateDir, log);
    const credentials = refusingRevoked(options.credentials, revocations);
    const wire = await Wire.start({ credentials, listen: migration?.listen, log });
    const agent = new NodeAgent({ ...options, credentials }, installation, epoch, wire, revocations);
    const running = agent.run();
    const { controller, serverName, renews = false } = options;
    const renewal = new CertificateRenewal({ targets: [controller].flat(), serverName, credentials, log, renews });
    renewal.start();
    return {
      stop: async () => {
        agent.end();
        await Promise.all([running, renewal.stop()]);
        await wire.close();
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
  private readonly controllers: Controllers;
  private machine: Machine | undefined;
  private session: Session | undefined;
  /** While this stream's work waits until what a fence took away has stopped. */
  private returning: Returning | undefined;
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
    private readonly epoch: Epoch,
    private readonly wire: Wire,
    private readonly revocations: KnownRevocations,
  ) {
    const { controller, serverName, credentials } = options;
    this.timing = {
      ...defaultTiming,
      reconnect: { firstMs: 100, mostMs: 5_000 },
      refusedMs: 30_000,
      welcomeTimeoutMs: 10_000,
      ...options.timing,
    };
    this.controllers = new Controllers({ targets: [controller].flat(), serverName, credentials });
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
      // Only when none of them was there is it asked more rarely.
      delayMs ||= backOffMs(Math.floor(attempt / this.controllers.size), this.timing.reconnect);
      attempt += 1;
      this.controllers.next();
      this.pause = new AbortController();
      const signal = AbortSignal.any([this.ending.signal, this.pause.signal]);
      await sleep(delayMs, undefined, { signal }).catch(() => {}); // Only our own end or another certificate aborts it.
      this.hasNewCertificate = false;
    }
    this.unsubscribe();
    this.controllers.close();
    await this.machine?.close();
  }

  /** One stream, or the reason why there is none. A machine that joins just now says Hello again with what it has. */
  private async connectOnce(): Promise<void> {
    const { short } = this.installation;
    if (short !== undefined) this.machine ??= await this.createMachine(short);
    const { machine } = this;
    const { options, installation, epoch, wire, revocations } = this;
    const hello = await helloOf(machine, { options, installation, epoch, wire, revocations });
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
    const over = new AbortController();
    const session: Session = new Session({
      client: this.controllers.client,
      hello,
      log,
      welcomeTimeoutMs: this.timing.welcomeTimeoutMs,
      handlers: {
        welcome: (welcome) => this.welcome(welcome, machine, session, over.signal),
        desire: (desire) => {
          if (this.returning) this.returning.take(desire);
          else joined().reconciler.desire(desire.items, desire.snapshotEnd);
        },
        deed: async (deed) => joined().deeds.perform(deed),
        relay: (request) => relays.serve(request),
        relayInput: ({ relayId, data }) => relays.input(relayId, data),
        cancelRelay: (relayId) => relays.cancel(relayId),
        capacity: () => joined().capacity(),
        inventory: async () => takeInventory(joined().driver, joined().reconciler),
        removeUnowned: async (refs) => joined().removeUnowned(refs),
        revocations: (told) => this.revocations.take(told),
      },
    });
    this.session = session;
    try {
      await session.run();
      log.debug({}, 'the stream ended');
    } finally {
      this.session = undefined;
      this.returning = undefined;
      over.abort();
      relays.close();
    }
  }

  private async welcome(
    welcome: Welcome,
    machine: Machine | undefined,
    session: Session,
    over: AbortSignal,
  ): Promise<void> {
    await this.installation.join(welcome.installationId);
    this.welcomedAt = Date.now();
    if (!machine) {
      this.options.log.info({ installation: welcome.installationId }, 'this machine joined an installation');
      this.hasJustJoined = true;
      session.end();
      return;
    }
    const { target } = this.controllers;
    this.options.log.info(
      { node: welcome.nodeId, session: welcome.session.toString(), controller: target },
      'connected',
    );
    if (this.epoch.isBehind(welcome.epoch)) this.returning = this.returnTo(welcome.epoch, machine, session, over);
    else {
      await this.epoch.keep(welcome.epoch);
      machine.beginStream();
    }
  }

  private returnTo(epoch: bigint, machine: Machine, session: Session, signal: AbortSignal): Returning {
    const proceed = () => {
      this.returning = undefined;
    };
    const more = { log: this.options.log, retry: this.timing.retry };
    return new Returning({ epoch, stored: this.epoch, machine, session, proceed, signal, ...more });
  }

  private createMachine(installation: string): Promise<Machine> {
    return Machine.create({
      installation,
      stateDir: this.options.stateDir,
      log: this.options.log,
      createDriver: this.options.createDriver,
      fetchImage: imageChannel(() => this.controllers.client),
      timing: this.timing,
      content: new ContentSender(
        contentChannel(() => this.controllers.client),
        this.options.log,
      ),
      migration: this.wire,
      onDeedProgress: (progress) => void this.session?.sendProgress(progress),
      onObserved: (observed) => this.session?.report(observed),
      metricsSender: () => {
        const { session } = this;
        return this.welcomedAt === undefined ? undefined : session && ((report) => session.sendMetrics(report));
      },
      ca: () => this.options.credentials.current.ca.toString('utf8'),
    });
  }
}
