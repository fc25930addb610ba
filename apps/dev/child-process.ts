/**
 * One program of the stack as a child that is kept alive: started again when it died, with growing pauses, its output in
 * a log file of its own. A process id is told to `onPid` at each start.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, openSync, readFileSync, renameSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { endProcess, processIdentity } from '#libs/devdb';

export interface ChildOptions {
  name: string;
  /** Program and arguments; the program is Node, or leads to it without a fork. */
  argv: string[];
  cwd: string;
  logFolder: string;
  onPid: (pid: number) => void;
  say: (message: string) => void;
}

export interface Child {
  readonly name: string;
  readonly logFile: string;
  /** Rejects when it has died again and again and never ran for long; for the time of the start. */
  readonly hopeless: Promise<never>;
  /** Ends it in order and keeps it ended. */
  stop(): Promise<void>;
}

const firstPauseMs = 200;
const longestPauseMs = 10_000;
/** Whoever ran that long was well, and starts again at once. */
const wellMs = 30_000;
const maxQuickDeaths = 5;
const maxLogBytes = 20 * 1024 * 1024;

export function keepAlive(options: ChildOptions): Child {
  const logFile = join(options.logFolder, `${options.name}.log`);
  let stopping = false;
  let quickDeaths = 0;
  let pause: NodeJS.Timeout | undefined;
  let current: ChildProcess | undefined;
  let giveUp: (error: Error) => void = () => undefined;
  const hopeless = new Promise<never>((_, reject) => {
    giveUp = reject;
  });
  // Only waited for during the start; later a child that cannot run is reported and tried again.
  hopeless.catch(() => undefined);

  const start = () => {
    const startedAt = Date.now();
    const child = launch(options, logFile);
    current = child;
    if (child.pid) options.onPid(child.pid);
    const died = (how: string) => {
      if (stopping) return;
      quickDeaths = Date.now() - startedAt > wellMs ? 0 : quickDeaths + 1;
      const pauseMs = Math.min(firstPauseMs * 2 ** Math.max(quickDeaths - 1, 0), longestPauseMs);
      options.say(`${options.name} ended (${how}); starts again in ${pauseMs / 1000} s. Its log: ${logFile}`);
      if (quickDeaths >= maxQuickDeaths) giveUp(new Error(`${options.name} does not run:\n${lastLines(logFile)}`));
      pause = setTimeout(start, pauseMs);
    };
    child.once('error', (error) => died(error.message));
    child.once('exit', (code, signal) => died(signal ?? `status ${code}`));
  };
  start();

  return {
    name: options.name,
    logFile,
    hopeless,
    async stop() {
      stopping = true;
      clearTimeout(pause);
      const identity = current?.pid ? processIdentity(current.pid) : undefined;
      if (identity)
        await endProcess(identity, [
          ['SIGTERM', 15_000],
          ['SIGKILL', 5_000],
        ]);
    },
  };
}

function launch({ argv, cwd }: ChildOptions, logFile: string): ChildProcess {
  if (existsSync(logFile) && statSync(logFile).size > maxLogBytes) renameSync(logFile, `${logFile}.1`);
  const log = openSync(logFile, 'a', 0o600);
  try {
    const [program = '', ...args] = argv;
    // In a group of its own, so that Ctrl-C reaches only the supervisor, which stops all in order.
    return spawn(program, args, { cwd, stdio: ['ignore', log, log, 'ipc'], detached: true });
  } finally {
    closeSync(log);
  }
}

function lastLines(file: string): string {
  return readFileSync(file, 'utf8').trimEnd().split('\n').slice(-15).join('\n');
}
