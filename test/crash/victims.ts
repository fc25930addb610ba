/** Processes to be killed, one at a time of each program, and spares that have loaded all and wait to take their place. */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { until } from '../harness/until.js';

const root = resolve(import.meta.dirname, '..', '..');

/** A point that a process told of. */
export interface Reached {
  tenant: string;
  /** From 1, in the tenant, since it was armed. */
  number: number;
  name: string;
  isHeld: boolean;
}

interface Worker {
  child: ChildProcess;
  isLoaded: boolean;
  isArmed: boolean;
  reached: Reached[];
}

const SPARES = 2;

export class Victims {
  private current: Worker | undefined;
  private readonly spares: Worker[] = [];
  killed = 0;

  constructor(
    readonly program: 'grpc' | 'agent',
    private readonly config: string,
    private readonly logFile: string,
    /** Whether the one that was told to go serves. */
    private readonly serves: () => Promise<boolean>,
    /** The argv that runs another where it has to run. */
    private readonly where: (argv: readonly string[]) => string[] = (argv) => [...argv],
  ) {}

  /** What the one that runs has told since it was armed. */
  get reached(): readonly Reached[] {
    return this.current?.reached ?? [];
  }

  /** Lets a spare take the place, armed before it does anything; resolves when it serves. */
  async next(points?: Record<string, number>): Promise<void> {
    while (this.spares.length <= SPARES) this.spares.push(this.spawn());
    const worker = this.spares.shift()!;
    this.current = worker;
    await this.untilIt('has loaded', worker, () => worker.isLoaded);
    if (points) await this.arm(points);
    worker.child.send({ go: true });
    await this.untilIt('serves', worker, this.serves);
  }

  /** From now on its points are numbered, of these tenants, and each is held at its number. */
  async arm(points: Record<string, number>): Promise<void> {
    const worker = this.current!;
    worker.isArmed = false;
    worker.reached = [];
    worker.child.send({ arm: points });
    await this.untilIt('is armed', worker, () => worker.isArmed);
  }

  async kill(): Promise<void> {
    const worker = this.current;
    if (!worker) return;
    worker.child.kill('SIGKILL');
    await until('its end', () => hasEnded(worker.child), 30_000, 5);
    this.current = undefined;
    this.killed++;
  }

  async close(): Promise<void> {
    const all = [...this.spares.splice(0), ...(this.current ? [this.current] : [])];
    for (const { child } of all) child.kill('SIGKILL');
    for (const { child } of all) await until('its end', () => hasEnded(child));
  }

  private spawn(): Worker {
    const log = openSync(this.logFile, 'a', 0o600);
    const main = join(root, 'dist', 'apps', this.program, 'main.js');
    const points = join(import.meta.dirname, 'points.ts');
    const [program, ...argv] = this.where([process.execPath, '--import', points, main, '--config', this.config]);
    const child = spawn(program!, argv, {
      cwd: root,
      stdio: ['ignore', log, log, 'ipc'],
    });
    closeSync(log);
    const worker: Worker = { child, isLoaded: false, isArmed: false, reached: [] };
    child.on('message', (told: Partial<Reached> & { isLoaded?: true; isArmed?: true }) => {
      if (told.isLoaded) worker.isLoaded = true;
      else if (told.isArmed) worker.isArmed = true;
      else worker.reached.push(told as Reached);
    });
    return worker;
  }

  private async untilIt(what: string, { child }: Worker, holds: () => boolean | Promise<boolean>): Promise<void> {
    const look = () => {
      if (hasEnded(child)) throw new Error(`${this.program} has ended`);
      return holds();
    };
    await until(`${this.program} ${what}`, look, 120_000, 10).catch((error: Error) => {
      throw new Error(`${error.message}; its log ends with:\n${readFileSync(this.logFile, 'utf8').slice(-3_000)}`);
    });
  }
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null;
}
