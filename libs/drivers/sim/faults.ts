/**
 * Faults that a test injects into the sim driver from outside: `sim-faults.json` in the state directory, read again when
 * it changes. Each entry strikes `times` times; the counts live in memory and start anew with a new file.
 */
import { readFile, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { DriverError } from '#libs/drivers/contract';

export interface SimFault {
  /** `network`, `disk`, `snapshot` or `instance`; all kinds unless given. */
  kind?: string;
  /** `shutdown` is not a failure: the guest switches itself off. */
  operation: 'apply' | 'remove' | 'operate' | 'inventory' | 'halt' | 'shutdown';
  /** Glob (`*`, `?`) on the resource's name or id; all unless given. */
  match?: string;
  /** How often it strikes; for ever unless given. */
  times?: number;
  /** The failure's code; without one the operation is only delayed. */
  code?: string;
  message?: string;
  permanent?: boolean;
  delayMs?: number;
}

export interface FaultTarget {
  kind: string;
  id: string;
  name?: string;
}

export class SimFaults {
  private signature = '';
  private faults: { fault: SimFault; left: number }[] = [];

  /** Without a file there are none. */
  constructor(private readonly file: string | undefined) {}

  /** Delays and throws as the first fault that matches says. */
  async strike(operation: SimFault['operation'], target: FaultTarget, signal?: AbortSignal): Promise<void> {
    const fault = await this.take(operation, target);
    if (!fault) return;
    if (fault.delayMs) await sleep(fault.delayMs, undefined, { signal });
    if (fault.code) {
      throw new DriverError(fault.code, fault.message ?? `Injected: ${fault.code}.`, { permanent: fault.permanent });
    }
  }

  /** The first fault that matches, counted as used; undefined when there is none. */
  async take(operation: SimFault['operation'], target: FaultTarget): Promise<SimFault | undefined> {
    await this.reload();
    const entry = this.faults.find(
      ({ fault, left }) => left > 0 && fault.operation === operation && matches(fault, target),
    );
    if (entry) entry.left -= 1;
    return entry?.fault;
  }

  /** Whether any is left of this operation, whatever it matches: asked once for all machines. */
  async isInjected(operation: SimFault['operation']): Promise<boolean> {
    await this.reload();
    return this.faults.some(({ fault, left }) => left > 0 && fault.operation === operation);
  }

  private async reload(): Promise<void> {
    const { file } = this;
    if (file === undefined) return;
    const status = await stat(file).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return undefined;
      throw error;
    });
    const signature = status ? `${status.ino}:${status.mtimeMs}:${status.size}` : '';
    if (signature === this.signature) return;
    const faults = status ? parseFaults(await readFile(file, 'utf8'), file) : [];
    this.signature = signature;
    this.faults = faults.map((fault) => ({ fault, left: fault.times ?? Number.POSITIVE_INFINITY }));
  }
}

function parseFaults(text: string, file: string): SimFault[] {
  const faults: unknown = JSON.parse(text);
  if (!Array.isArray(faults)) throw new Error(`${file} must hold a list of faults.`);
  return faults as SimFault[];
}

function matches(fault: SimFault, target: FaultTarget): boolean {
  if (fault.kind !== undefined && fault.kind !== target.kind) return false;
  if (fault.match === undefined) return true;
  const pattern = new RegExp(
    `^${fault.match
      .replaceAll(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll('*', '.*')
      .replaceAll('?', '.')}$`,
  );
  return pattern.test(target.id) || (target.name !== undefined && pattern.test(target.name));
}
