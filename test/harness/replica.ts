/**
 * Further processes beside those of a stack: replicas of its servers, and nodes with the simulated machine. Each keeps its
 * ports and its settings while its process comes and goes, and ends with the test.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { type Host, underlayLink, worldLink } from '#libs/drivers/host';
import { issue } from './grpc.js';
import type { Stack } from './stack.js';
import { until } from './until.js';

const root = resolve(import.meta.dirname, '..', '..');
const endWithParent = join(root, 'dist', 'apps', 'dev', 'end-with-parent.js');

export class Replica {
  private child: ChildProcess | undefined;

  constructor(
    readonly name: string,
    private readonly program: 'api' | 'grpc' | 'agent',
    private readonly folder: string,
    /** host:port where it serves; of a node: nothing. */
    readonly address: string,
    /** host:port that says whether it is ready. */
    private readonly monitoring: string | undefined,
    /** The folder with the built programs. */
    private readonly dist = join(root, 'dist'),
    /** What stands before its command line, for one that runs elsewhere. */
    private readonly inside: (argv: readonly string[]) => string[] = (argv) => [...argv],
  ) {}

  /** Base URL of a REST server. */
  get base(): string {
    return `http://${this.address}`;
  }

  /** The file with its settings. */
  get config(): string {
    return join(this.folder, 'rhyzome-api.json');
  }

  get isRunning(): boolean {
    return this.child !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  get pid(): number {
    if (!this.child?.pid) throw new Error(`${this.name} does not run`);
    return this.child.pid;
  }

  /** What it has written, over all its processes. */
  get log(): string {
    const file = join(this.folder, 'log');
    return existsSync(file) ? readFileSync(file, 'utf8') : '';
  }

  /** Starts a process without waiting for it. */
  launch(dist = this.dist): void {
    if (this.isRunning) throw new Error(`${this.name} runs already`);
    const log = openSync(join(this.folder, 'log'), 'a', 0o600);
    const main = join(dist, 'apps', this.program, 'main.js');
    const node = [process.execPath, '--import', endWithParent, main, '--config', this.config];
    const [file = '', ...argv] = this.inside(node);
    this.child = spawn(file, argv, { cwd: root, stdio: ['ignore', log, log, 'ipc'] });
    closeSync(log);
  }

  /** Starts a process; resolves when it serves. */
  async start(dist?: string): Promise<this> {
    this.launch(dist);
    await this.ready();
    return this;
  }

  async ready(limitMs = 120_000): Promise<void> {
    if (!this.monitoring) return;
    const url = `http://${this.monitoring}/readyz`;
    const isReady = () =>
      fetch(url).then(
        ({ ok }) => ok,
        () => false,
      );
    await this.untilIt('is ready', isReady, limitMs);
  }

  private async untilIt(what: string, holds: () => boolean | Promise<boolean>, limitMs: number): Promise<void> {
    const look = () => {
      if (!this.isRunning) throw new Error(`${this.name} has ended`);
      return holds();
    };
    await until(`${this.name} ${what}`, look, limitMs).catch((error: Error) => {
      throw new Error(`${error.message}; its log ends with:\n${this.log.slice(-2_000)}`);
    });
  }

  /** Lines of its log with this message, parsed. */
  lines(message: string): any[] {
    const isIt = (line: string) => line.includes(`"msg":${JSON.stringify(message)}`);
    return this.log.split('\n').flatMap((line) => (isIt(line) ? [JSON.parse(line)] : []));
  }

  /** Until it has logged such a message for the nth time. */
  async logged(message: string, count = 1, limitMs = 120_000): Promise<void> {
    await this.untilIt(`has logged “${message}”`, () => this.lines(message).length >= count, limitMs);
  }

  signal(signal: NodeJS.Signals): void {
    process.kill(this.pid, signal);
  }

  /** Asks it to end, as an upgrade does; gives its status. */
  async end(): Promise<number | null> {
    if (!this.isRunning) return this.child?.exitCode ?? null;
    this.signal('SIGCONT');
    this.signal('SIGTERM');
    await this.ended();
    return this.child!.exitCode;
  }

  /** Kills it as a crash of the machine would. */
  async kill(): Promise<void> {
    if (!this.isRunning) return;
    this.signal('SIGKILL');
    await this.ended();
  }

  private ended(): Promise<unknown> {
    return until(`the end of ${this.name}`, () => !this.isRunning, 40_000, 10);
  }
}

export interface ReplicaOptions {
  /** host:port of its database, in place of the stack's: a Cable that can be cut. */
  databaseAt?: string;
  /** CIDRs that images are fetched from although they are inside. */
  allowedSources?: string[];
}

/** A further rhyzome-api, not started yet. */
export async function apiReplica(stack: Stack, name: string, options: ReplicaOptions = {}): Promise<Replica> {
  const [address, monitoring] = await freeAddresses(2);
  const settings = settingsOf(stack, options);
  const api = { ...settings.api, listen: address, monitoring, publicUrl: `http://${address}` };
  return new Replica(name, 'api', write(stack, name, { ...settings, api }), address!, monitoring);
}

/** A further rhyzome-grpc, not started yet. */
export async function grpcReplica(stack: Stack, name: string, options: ReplicaOptions = {}): Promise<Replica> {
  const [address, monitoring] = await freeAddresses(2);
  const settings = settingsOf(stack, options);
  const grpc = { ...settings.grpc, listen: [address], advertise: address, monitoring };
  return new Replica(name, 'grpc', write(stack, name, { ...settings, grpc }), address!, monitoring);
}

/** A further node with the simulated machine that dials these replicas, not started yet. */
export async function simNode(
  stack: Stack,
  name: string,
  controllers: readonly { address: string }[],
  /** With settings that an earlier version takes, too. */
  forEarlier = false,
  /** Further settings of the agent. */
  more: object = {},
): Promise<Replica> {
  const { ca, cert, key } = await issue(stack, 'node', name);
  const pki = { ca, cert, key };
  const stateDir = nodeState(stack, name);
  const controller = controllers.map(({ address }) => address);
  const own = forEarlier ? { controller: controller[0] } : { controller, migration: { listen: '127.0.0.1:0' } };
  const agent = { ...own, serverName: 'localhost', stateDir, driver: 'sim', labels: {}, pki, ...more };
  return new Replica(name, 'agent', write(stack, name, { agent }), '', undefined);
}

/**
 * A further node with libvirt in a host of its own, not started yet. It meets other nodes at `address`, on the host's link
 * to the underlay, and its guests go out by the one to the world.
 */
export async function libvirtNode(stack: Stack, name: string, host: Host, address: string): Promise<Replica> {
  const { ca, cert, key } = await issue(stack, 'node', name);
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const agent = {
    // By its socket, which network namespaces do not part.
    controller: settings.agent.controller,
    serverName: 'localhost',
    stateDir: nodeState(stack, name),
    driver: 'libvirt',
    libvirt: { uri: host.libvirtUri },
    network: {
      uplink: { interface: worldLink.interface },
      underlay: { address, interface: underlayLink.interface },
    },
    migration: { listen: `${address}:7600` },
    labels: { rack: name },
    pki: { ca, cert, key },
  };
  const folder = write(stack, name, { agent });
  return new Replica(name, 'agent', folder, '', undefined, undefined, (argv) => host.command(argv));
}

/** Where a further node keeps what it has. */
export function nodeState(stack: Stack, name: string): string {
  return join(stack.data, 'beside', name, 'state');
}

function settingsOf(stack: Stack, { databaseAt, allowedSources }: ReplicaOptions): any {
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  // Its address is the stack's own.
  delete settings.grpc.enrollment;
  if (allowedSources) settings.images = { ...settings.images, allowedSources };
  if (!databaseAt) return settings;
  const moved = (connection: string) => Object.assign(new URL(connection), { host: databaseAt }).href;
  return { ...settings, db: moved(settings.db), dbOperator: moved(settings.dbOperator) };
}

function write(stack: Stack, name: string, settings: object): string {
  const folder = join(stack.data, 'beside', name);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'rhyzome-api.json'), JSON.stringify(settings), { mode: 0o600 });
  return folder;
}

async function freeAddresses(count: number): Promise<string[]> {
  const servers = Array.from({ length: count }, () => createServer());
  const ports: number[] = [];
  for (const server of servers) {
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    ports.push((server.address() as { port: number }).port);
  }
  for (const server of servers) await new Promise((done) => server.close(done));
  return ports.map((port) => `127.0.0.1:${port}`);
}
