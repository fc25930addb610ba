/**
 * A whole Rhyzome as `npm start` runs it, in processes of its own with data below a temporary folder. Stacks are named:
 * the first test that asks for a name starts it, the others of the run share it, and the run's end stops it. What a
 * killed run left behind is ended by the next one.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { chmodSync, closeSync, existsSync, mkdirSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import type { DevJson } from '../../apps/dev/dev-json.js';
// By its path: the runner's global setup knows nothing of the condition by which '#libs/…' finds sources.
import { endProcess, isRunning, type ProcessIdentity, processIdentity } from '../../libs/devdb/process-identity.js';
import { until } from './until.js';

export type ProcessName = 'api' | 'grpc' | 'agent' | 'database';

const variable = 'RHYZOME_TEST_STACKS';
const prefix = 'rhyzome-e2e-';
const root = resolve(import.meta.dirname, '..', '..');
const startMs = 120_000;

/** For the runner: a folder for this run's stacks. Returns the end of all that were started in it. */
export async function serveStacks(): Promise<() => Promise<void>> {
  await sweep();
  const self = processIdentity(process.pid);
  const folder = join(tmpdir(), `${prefix}${self?.pid}-${self?.start}`);
  process.env[variable] = folder;
  return async () => {
    delete process.env[variable];
    await removeStacks(folder);
  };
}

/** Ends and removes the stacks of runs that are no more. */
async function sweep(): Promise<void> {
  for (const name of readdirSync(tmpdir())) {
    const [, pid, start] = /^rhyzome-e2e-(\d+)-(\d+)$/.exec(name) ?? [];
    if (pid && start && !isRunning({ pid: Number(pid), start })) await removeStacks(join(tmpdir(), name));
  }
}

async function removeStacks(folder: string): Promise<void> {
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder)) await endSupervisor(join(folder, name));
  rmSync(folder, { recursive: true, force: true });
}

/** Ends the supervisor that holds a data folder; none there is success. */
async function endSupervisor(data: string): Promise<void> {
  const lock = join(data, 'lock.json');
  if (!existsSync(lock)) return;
  await endProcess(JSON.parse(readFileSync(lock, 'utf8')) as ProcessIdentity, [
    ['SIGTERM', 60_000],
    ['SIGKILL', 5_000],
  ]);
}

/** A running stack. `dev` reads dev.json anew each time, since process ids change. */
export class Stack {
  constructor(
    readonly data: string,
    private readonly supervisor: ChildProcess | undefined,
  ) {}

  get dev(): DevJson {
    return JSON.parse(readFileSync(join(this.data, 'dev.json'), 'utf8')) as DevJson;
  }

  pid(name: ProcessName): number {
    const pid = this.dev.processes[name];
    if (!pid) throw new Error(`dev.json names no process ${name}`);
    return pid;
  }

  /** The process that runs now. */
  identity(name: ProcessName): ProcessIdentity {
    const identity = processIdentity(this.pid(name));
    if (!identity) throw new Error(`${name} does not run`);
    return identity;
  }

  /** Kills it as a crash of the machine would, and gives what it was. */
  kill(name: ProcessName): ProcessIdentity {
    const identity = this.identity(name);
    process.kill(identity.pid, 'SIGKILL');
    return identity;
  }

  /** Until the supervisor has started another in place of the one that died. */
  async restarted(name: ProcessName, before: ProcessIdentity, limitMs?: number): Promise<void> {
    const isNew = () => {
      const now = processIdentity(this.pid(name));
      return now !== undefined && now.start !== before.start;
    };
    await until(`${name} starts again`, isNew, limitMs);
  }

  /** The last lines of a program's log, for messages. */
  log(name: Exclude<ProcessName, 'database'>): string {
    return readFileSync(join(this.data, 'logs', `${name}.log`), 'utf8');
  }

  /** Stops all of it as Ctrl-C does. Returns the status that it ended with, where this process started it. */
  async stop(): Promise<number | null> {
    await endSupervisor(this.data);
    const { supervisor } = this;
    if (!supervisor) return null;
    await until('the end of npm start', () => supervisor.exitCode !== null || supervisor.signalCode !== null);
    return supervisor.exitCode;
  }
}

const known = new Map<string, Promise<Stack>>();

export interface StackOptions {
  driver: 'sim' | 'libvirt';
  tenants?: string[];
}

/** The run's stack of this name, started when it is not there. Throws with what the supervisor said. */
export function stackNamed(name: string, options: StackOptions): Promise<Stack> {
  const running = known.get(name) ?? findOrStart(name, options);
  known.set(name, running);
  return running;
}

/** The stack that suites share which leave it as they found it. */
export function sharedStack(driver: 'sim' | 'libvirt'): Promise<Stack> {
  return stackNamed(driver, { driver });
}

async function findOrStart(name: string, options: StackOptions): Promise<Stack> {
  const folder = process.env[variable];
  if (!folder)
    throw new Error('There is no folder for stacks: run tests by vitest with this project’s vitest.config.ts');
  const data = join(folder, name);
  mkdirSync(folder, { recursive: true });
  // PostgreSQL runs as a user of its own where this one is root, and must get through.
  chmodSync(folder, 0o711);
  if (!isFirst(data)) {
    await until(`stack ${name}`, () => existsSync(join(data, 'dev.json')), startMs);
    return new Stack(data, undefined);
  }
  return new Stack(data, await startStack(data, options));
}

/** True for whoever makes the folder. */
function isFirst(data: string): boolean {
  try {
    mkdirSync(data, { mode: 0o711 });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

/** Starts `npm start`'s program on a data folder and waits until it serves. */
/** `checkout`: of another version, built already. */
export async function startStack(data: string, options: StackOptions, checkout?: string): Promise<ChildProcess> {
  const logFile = join(data, 'supervisor.log');
  // A killed one has left its own behind.
  const before = publishedBy(data);
  mkdirSync(data, { recursive: true, mode: 0o711 });
  const log = openSync(logFile, 'a', 0o600);
  const ports = ['api', 'grpc', 'issuer'].flatMap((server) => [`--${server}-port`, '0']);
  const tenants = (options.tenants ?? ['acme', 'globex', 'initech']).join(',');
  const program = checkout
    ? ['--enable-source-maps', join(checkout, 'dist', 'apps', 'dev', 'main.js')]
    : [join(root, 'tools', 'start.mjs')];
  const child = spawn(
    process.execPath,
    [...program, '--data', data, ...ports, '--driver', options.driver, '--tenants', tenants],
    { cwd: checkout ?? root, stdio: ['ignore', log, log] },
  );
  closeSync(log);
  let gone: string | undefined;
  child.once('error', (error) => (gone = error.message));
  child.once('exit', (code, signal) => (gone = `status ${signal ?? code}`));
  await until(
    `stack in ${data}`,
    () => {
      if (gone) throw new Error(`the stack did not start (${gone}):\n${readFileSync(logFile, 'utf8')}`);
      const by = publishedBy(data);
      return by !== undefined && by !== before;
    },
    startMs,
  );
  return child;
}

/** The supervisor that dev.json names; undefined: there is none. */
function publishedBy(data: string): number | undefined {
  const file = join(data, 'dev.json');
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as DevJson).pid : undefined;
}
