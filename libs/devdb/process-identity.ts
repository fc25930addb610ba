/**
 * Who a process is, beyond its number: numbers are used again, start times with them are not. Whoever records a process
 * to end it later records both.
 */
import { readFileSync } from 'node:fs';

export interface ProcessIdentity {
  pid: number;
  /** Field 22 of /proc/PID/stat (proc_pid_stat(5)): clock ticks after boot. */
  start: string;
}

/** Identity of a running process; undefined when there is none, or only a zombie. */
export function processIdentity(pid: number): ProcessIdentity | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command in parentheses may hold blanks and parentheses of its own.
    const [state, ...fields] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return state === 'Z' || state === 'X' ? undefined : { pid, start: fields[18] ?? '' };
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ESRCH') return undefined;
    throw error;
  }
}

/** Whether exactly this process still runs. */
export function isRunning(identity: ProcessIdentity): boolean {
  return processIdentity(identity.pid)?.start === identity.start;
}

/** Waits until it has ended. False when it has not within `timeoutMs`. */
export async function waitForEnd(identity: ProcessIdentity, timeoutMs: number): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  while (isRunning(identity)) {
    if (Date.now() >= deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return true;
}

/**
 * Ends a process that nobody is parent of any more: each signal in turn, with its time to act. Ended already is success.
 * Throws when it outlives the last.
 */
export async function endProcess(identity: ProcessIdentity, signals: [NodeJS.Signals, number][]): Promise<void> {
  for (const [signal, timeoutMs] of signals) {
    if (!isRunning(identity)) return;
    try {
      process.kill(identity.pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return;
      throw error;
    }
    if (await waitForEnd(identity, timeoutMs)) return;
  }
  throw new Error(`process ${identity.pid} does not end`);
}
