/**
 * Tells processes apart beyond their pid (which the kernel gives out again): by start time and by the UTS namespace
 * that everything inside a host shares. Linux only; reads /proc (proc(5), namespaces(7)).
 */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';

/** Start time in clock ticks since boot (field 22 of /proc/PID/stat); null: there is no such process, or a zombie. */
export async function startTime(pid: number): Promise<string | null> {
  const stat = await readProc(`/proc/${pid}/stat`);
  if (stat === null) return null;
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if (fields[0] === 'Z' || fields[0] === 'X') return null;
  return fields[19] ?? null;
}

/** Arguments of a process; null: there is none. */
export async function commandLine(pid: number): Promise<string[] | null> {
  const text = await readProc(`/proc/${pid}/cmdline`);
  return text === null || text === '' ? null : text.split('\0').slice(0, -1);
}

/** Pids by UTS namespace (`uts:[4026532201]`), without this process's own namespace and what we may not look at. */
export async function utsNamespaces(): Promise<Map<string, number[]>> {
  const own = await readlink('/proc/self/ns/uts');
  const found = new Map<string, number[]>();
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const uts = await utsNamespace(Number(name));
    if (uts === null || uts === own || (await startTime(Number(name))) === null) continue;
    found.set(uts, [...(found.get(uts) ?? []), Number(name)]);
  }
  return found;
}

async function utsNamespace(pid: number): Promise<string | null> {
  try {
    return await readlink(`/proc/${pid}/ns/uts`);
  } catch (error) {
    if (isGone(error) || isForbidden(error)) return null;
    throw error;
  }
}

/** SIGTERM, then SIGKILL after `graceMs`, to what `list` finds, until it finds nothing. Throws after 10 s more. */
export async function endProcesses(list: () => Promise<number[]>, graceMs: number): Promise<void> {
  const started = Date.now();
  let pids = await list();
  for (const pid of pids) sendSignal(pid, 'SIGTERM');
  while (pids.length > 0) {
    await sleep(50);
    pids = await list();
    const waited = Date.now() - started;
    if (waited > graceMs + 10_000) throw new Error(`processes ${pids.join(', ')} do not end`);
    if (waited > graceMs) for (const pid of pids) sendSignal(pid, 'SIGKILL');
  }
}

/** Sends a signal; a process that is gone is no error. */
export function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (!isGone(error)) throw error;
  }
}

async function readProc(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (isGone(error)) return null;
    throw error;
  }
}

function isGone(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'ENOENT' || code === 'ESRCH';
}

function isForbidden(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'EACCES' || code === 'EPERM';
}
