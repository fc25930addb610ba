/**
 * What a running PostgreSQL server says of itself in its data folder: whether it is ready, and which process it is.
 */
import type { ChildProcess } from 'node:child_process';
import { readFileSync, readlinkSync, realpathSync } from 'node:fs';
import { join } from 'node:path';
import { endProcess, processIdentity } from './process-identity.js';

/** The lines of postmaster.pid (PostgreSQL's miscadmin.h): 1 process id, 8 status. Undefined when there is none. */
function pidFile(data: string): { pid: number; status: string } | undefined {
  let lines: string[];
  try {
    lines = readFileSync(join(data, 'postmaster.pid'), 'utf8').split('\n');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  return { pid: Number(lines[0]), status: lines[7]?.trim() ?? '' };
}

/** Waits until a server that was just started takes connections, or has ended without. */
export async function serverStatus(
  child: ChildProcess,
  data: string,
  timeoutMs: number,
): Promise<'ready' | 'ended' | 'timeout'> {
  let ended = false;
  child.once('exit', () => {
    ended = true;
  });
  child.once('error', () => {
    ended = true;
  });
  const deadline = Date.now() + timeoutMs;
  while (!ended && Date.now() < deadline) {
    const written = pidFile(data);
    if (written?.pid === child.pid && written?.status === 'ready') return 'ready';
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return ended ? 'ended' : 'timeout';
}

/** Ends the server of a data folder whose starter was killed. A process of another folder is never touched. */
export async function endLeftBehind(data: string, log?: (message: string) => void): Promise<void> {
  const pid = pidFile(data)?.pid;
  const identity = pid ? processIdentity(pid) : undefined;
  // A postmaster's working directory is its data folder; the number alone may belong to somebody else by now.
  if (!identity || workingDirectory(identity.pid) !== realpathSync(data)) return;
  log?.(`ending the PostgreSQL that was left behind (process ${pid})`);
  await endProcess(identity, [
    ['SIGINT', 20_000],
    ['SIGQUIT', 5_000],
    ['SIGKILL', 5_000],
  ]);
}

function workingDirectory(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    // Not ours to look at, or gone: either way not a server that this user started.
    return undefined;
  }
}

/** The end of a log file, for an error message. */
export function lastLines(file: string, count = 15): string {
  const lines = readFileSync(file, 'utf8').trimEnd().split('\n');
  return lines.slice(-count).join('\n');
}
