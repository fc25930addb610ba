/**
 * The process ids of the stack: kept on disk with their start times, so that the next start can end what a killed one
 * left behind, and told to whoever publishes them.
 */
import { endProcess, type ProcessIdentity, processIdentity } from '#libs/devdb';
import { readJson, writeWhole } from './data-folder.js';

export type ProcessName = 'api' | 'grpc' | 'agent' | 'database';

export interface ProcessRecord {
  readonly pids: Partial<Record<ProcessName, number>>;
  set(name: ProcessName, pid: number): void;
  /** Called after every change. */
  onChange(listener: () => void): void;
}

export function recordProcesses(file: string): ProcessRecord {
  const identities: Partial<Record<ProcessName, ProcessIdentity>> = {};
  const pids: Partial<Record<ProcessName, number>> = {};
  const listeners: (() => void)[] = [];
  return {
    pids,
    set(name, pid) {
      pids[name] = pid;
      const identity = processIdentity(pid);
      // Already gone: then there is nothing to end later.
      if (identity) identities[name] = identity;
      else delete identities[name];
      writeWhole(file, identities);
      for (const listener of listeners) listener();
    },
    onChange: (listener) => void listeners.push(listener),
  };
}

/** Ends the processes that an earlier start recorded and that still run. The database ends itself in its own way. */
export async function endRecorded(file: string, say: (message: string) => void): Promise<void> {
  const recorded = readJson<Partial<Record<ProcessName, ProcessIdentity>>>(file) ?? {};
  for (const [name, identity] of Object.entries(recorded)) {
    if (name === 'database' || processIdentity(identity.pid)?.start !== identity.start) continue;
    say(`ending ${name}, left behind by an earlier start (process ${identity.pid})`);
    await endProcess(identity, [
      ['SIGTERM', 10_000],
      ['SIGKILL', 5_000],
    ]);
  }
}
