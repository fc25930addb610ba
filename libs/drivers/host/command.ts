/**
 * Runs the machine's programs (ip, nft, virsh …) with argument arrays, never through a shell, each with a time limit.
 * A runner may carry a prefix (nsenter …), so that the same driver works on this machine or inside a host of
 * namespaces. Knows nothing of what the programs do.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';

export interface RunOptions {
  /** Written to standard input, which is then closed. */
  input?: string | Uint8Array;
  /** Default 20 000. The process is killed after it. */
  timeoutMs?: number;
  signal?: AbortSignal;
}

/** A program that could not be run, failed, or took too long. */
export class CommandError extends Error {
  override readonly name = 'CommandError';
  readonly code = 'command_failed';
  constructor(
    readonly program: string,
    /** Null: it did not start, or was killed. */
    readonly exitCode: number | null,
    readonly stderr: string,
    readonly timedOut: boolean,
    cause?: unknown,
  ) {
    const why = timedOut ? 'took too long' : stderr.trim().slice(0, 2000) || `exit code ${exitCode}`;
    super(`${program}: ${why}`, { cause });
  }
}

export interface Runner {
  /** What stands before every command. */
  readonly prefix: readonly string[];
  /** Standard output. Throws CommandError; an aborted signal throws its reason. */
  run(argv: readonly string[], options?: RunOptions): Promise<string>;
  /** A child that lives on until it ends or is killed; standard output and error are pipes. */
  spawn(argv: readonly string[]): ChildProcess;
}

const maxOutputBytes = 64 * 1024 * 1024;

/** A runner whose every command starts with `prefix`; empty: this machine as this process sees it. */
export function createRunner(prefix: readonly string[] = []): Runner {
  const environment = { ...process.env, LC_ALL: 'C', PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin` };
  const split = (argv: readonly string[]): [string, string[]] => {
    const [file, ...rest] = [...prefix, ...argv];
    if (file === undefined) throw new CommandError('', null, 'empty command', false);
    return [file, rest];
  };
  return {
    prefix,
    run(argv, options = {}) {
      options.signal?.throwIfAborted();
      const [file, rest] = split(argv);
      return new Promise((resolve, reject) => {
        const child = execFile(
          file,
          rest,
          {
            env: environment,
            timeout: options.timeoutMs ?? 20_000,
            killSignal: 'SIGKILL',
            maxBuffer: maxOutputBytes,
            signal: options.signal,
          },
          (error, stdout, stderr) => {
            if (!error) return resolve(stdout);
            if (options.signal?.aborted) return reject(options.signal.reason);
            const exitCode = typeof error.code === 'number' ? error.code : null;
            reject(new CommandError(argv[0] ?? file, exitCode, stderr || error.message, error.killed === true, error));
          },
        );
        // A program that ends before it has read all its input shows by its exit code, not by EPIPE.
        child.stdin?.on('error', () => undefined);
        child.stdin?.end(options.input ?? '');
      });
    },
    spawn(argv) {
      const [file, rest] = split(argv);
      return spawn(file, rest, { env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
    },
  };
}
