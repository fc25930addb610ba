/**
 * A Rhyzome on a real Keycloak: both with data of their own in one folder, PostgreSQL, rhyzome-api and rhyzome-grpc as
 * processes with the settings that an operator would write, and the `rhyzome` command. Everything ends with `close`, or
 * with the process that opened it.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Client as Postgres } from 'pg';
import { ensureCertificates } from '../../apps/dev/certificates.js';
import { type DevDatabase, startDatabase } from '../../apps/dev/database.js';
import { isRunning, processIdentity } from '../../libs/devdb/process-identity.js';
import { findKeycloak, type KeycloakServer, startKeycloak } from '../../tools/keycloak/index.js';
import { type Client, clientWith } from '../harness/client.js';
import { until } from '../harness/until.js';
import { KeycloakAdmin } from './admin.js';

const root = resolve(import.meta.dirname, '..', '..');
const cache = join(root, '.rhyzome', 'cache');
const found = findKeycloak(cache);

/** Why there is no Keycloak here; undefined where there is one. */
export const missing = found.ok ? undefined : found.reason;

/** Of all tenants in organization mode, by default. */
export const sharedRealm = 'rhyzome';

export interface Outcome {
  status: number;
  out: string;
  err: string;
}

export interface LabServer {
  keycloak: KeycloakServer;
  folder: string;
  /** Ends it and removes what is in its folder. */
  close(): Promise<void>;
}

/** Removes the data of runs that were killed; their processes have ended with them. */
function sweep(): void {
  for (const name of readdirSync(tmpdir())) {
    const [, pid, start] = /^rhyzome-keycloak-(\d+)-(\d+)$/.exec(name) ?? [];
    if (pid && start && !isRunning({ pid: Number(pid), start }))
      rmSync(join(tmpdir(), name), { recursive: true, force: true });
  }
}

/** Starts the Keycloak of this run. */
export async function openServer(): Promise<LabServer> {
  if (!found.ok) throw new Error(found.reason);
  sweep();
  const self = processIdentity(process.pid)!;
  const folder = join(tmpdir(), `rhyzome-keycloak-${self.pid}-${self.start}`);
  mkdirSync(folder, { mode: 0o711 });
  chmodSync(folder, 0o711); // PostgreSQL runs as a user of its own where this one is root
  const keycloak = await startKeycloak(found, cache, folder);
  return {
    keycloak,
    folder,
    close: async () => {
      await keycloak.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export class Lab {
  private readonly children: Partial<Record<'api' | 'grpc', ChildProcess>> = {};

  private constructor(
    readonly folder: string,
    readonly keycloak: KeycloakServer,
    /** Who sees and changes what is in Keycloak, beside Rhyzome. */
    readonly admin: KeycloakAdmin,
    private readonly database: DevDatabase,
    /** The settings file. */
    readonly config: string,
    readonly api: string,
    private readonly readiness: Record<'api' | 'grpc', string>,
  ) {}

  /** In the server's folder. */
  static async open({ keycloak, folder }: LabServer): Promise<Lab> {
    const ports = await freePorts(5);
    const at = (index: number) => `127.0.0.1:${ports[index]}`;
    const dir = join(folder, 'postgres');
    const [database, certificates] = await Promise.all([
      startDatabase({ dir, port: ports[4]!, onPid: () => undefined, say: () => undefined }),
      ensureCertificates(join(folder, 'pki')),
    ]);
    const admin = new KeycloakAdmin(keycloak.url);
    const clientSecret = await admin.makeInstallationClient('rhyzome');
    const settings = {
      ...database.connections,
      pki: certificates.server,
      api: { listen: at(0), monitoring: at(1), publicUrl: `http://${at(0)}` },
      grpc: { listen: [at(2)], advertise: at(2), monitoring: at(3) },
      keycloak: {
        url: keycloak.url,
        clientId: 'rhyzome',
        clientSecret,
        redirectUris: ['https://console.example/*'],
        timeoutMs: 10_000,
      },
    };
    const config = join(folder, 'rhyzome-api.json');
    writeFileSync(config, JSON.stringify(settings, null, 2), { mode: 0o600 });
    const readiness = { api: `http://${at(1)}/readyz`, grpc: `http://${at(3)}/readyz` };
    const lab = new Lab(folder, keycloak, admin, database, config, `http://${at(0)}`, readiness);
    await lab.ok('db', 'migrate');
    lab.start('grpc');
    lab.start('api');
    await Promise.all([lab.serving('grpc'), lab.serving('api')]);
    return lab;
  }

  /** Runs `rhyzome …` to its end. */
  rhyzome(args: readonly string[], environment: Record<string, string> = {}): Promise<Outcome> {
    return this.begin(args, environment).ended;
  }

  /** Runs `rhyzome …`: `said` is what it has printed so far, `kill` ends it as a crash would. */
  begin(args: readonly string[], environment: Record<string, string> = {}) {
    const main = join(root, 'dist', 'apps', 'cli', 'main.js');
    const child = spawn(process.execPath, [main, '--config', this.config, ...args], {
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: 150_000,
    });
    const said = { out: '', err: '' };
    child.stdout.on('data', (text) => (said.out += text));
    child.stderr.on('data', (text) => (said.err += text));
    const ended = new Promise<Outcome>((done, failed) => {
      child.once('error', failed);
      child.once('close', (code) => done({ status: code ?? 255, ...said }));
    });
    return { ended, said: () => said.out + said.err, kill: () => void child.kill('SIGKILL') };
  }

  /** As `rhyzome`, for what must succeed. */
  async ok(...args: string[]): Promise<string> {
    const { status, out, err } = await this.rhyzome(args);
    if (status !== 0) throw new Error(`rhyzome ${args.join(' ')} ended with ${status}: ${err || out}`);
    return out;
  }

  async json<T = any>(...args: string[]): Promise<T> {
    return JSON.parse(await this.ok(...args, '--json')) as T;
  }

  client(token: string): Client {
    return clientWith(this.api, token);
  }

  start(name: 'api' | 'grpc'): void {
    const log = openSync(join(this.folder, `${name}.log`), 'a', 0o600);
    const endWithParent = join(root, 'dist', 'apps', 'dev', 'end-with-parent.js');
    const main = join(root, 'dist', 'apps', name, 'main.js');
    const argv = ['--import', endWithParent, main, '--config', this.config];
    this.children[name] = spawn(process.execPath, argv, { cwd: root, stdio: ['ignore', log, log, 'ipc'] });
  }

  async serving(name: 'api' | 'grpc'): Promise<void> {
    await until(
      `${name} serves`,
      async () => {
        if (hasEnded(this.children[name]!)) throw new Error(`${name} ended: ${this.log(name).slice(-2000)}`);
        return (await fetch(this.readiness[name]).catch(() => undefined))?.ok; // it does not listen yet
      },
      90_000,
    );
  }

  /** SIGKILL: as a crash of its machine. */
  async kill(name: 'api' | 'grpc'): Promise<void> {
    const child = this.children[name];
    child?.kill('SIGKILL');
    if (child) await until(`end of ${name}`, () => hasEnded(child));
  }

  log(name: 'api' | 'grpc'): string {
    return readFileSync(join(this.folder, `${name}.log`), 'utf8');
  }

  /** How many rows of a table hold a text anywhere. */
  async rowsWith(table: string, text: string): Promise<number> {
    const client = new Postgres({ connectionString: this.database.connections.dbOwner });
    await client.connect();
    try {
      const { rows } = await client.query(`select count(*)::int as n from ${table} t where t::text like $1`, [
        `%${text}%`,
      ]);
      return rows[0].n;
    } finally {
      await client.end();
    }
  }

  async close(): Promise<void> {
    for (const child of Object.values(this.children)) {
      child.kill('SIGTERM');
      await until('the end of a server', () => hasEnded(child), 20_000).catch(() => child.kill('SIGKILL'));
    }
    await this.database.stop();
  }
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  for (const server of servers) await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  for (const server of servers) await new Promise((done) => server.close(done));
  return ports;
}

/** A folder of a suite's own in the lab's, e.g. for sessions of a user. */
export function folderIn(lab: Lab, name: string): string {
  const folder = join(lab.folder, name);
  mkdirSync(folder, { recursive: true });
  return folder;
}
