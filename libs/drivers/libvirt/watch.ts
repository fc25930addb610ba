/**
 * Notices what domains do by themselves: libvirt's events say when to look, a slow tick looks anyway. What the driver
 * itself is changing at the moment is not news.
 */
import type { ChildProcess } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { DriverLog, Found, InstanceStatus } from '#libs/drivers/contract';
import type { Virsh } from './virsh.js';

const tickMs = 10_000;
const restartMs = 1000;

/** What is known of each instance, and which of them are being changed by the driver. */
export class Known {
  private readonly states = new Map<string, string>();
  private readonly changing = new Map<string, number>();
  private readonly turns = new Map<string, number>();

  /** Does `work` with news of this instance held back; what it returns is known afterwards. */
  async during<T>(id: string, work: () => Promise<T>): Promise<T> {
    this.changing.set(id, (this.changing.get(id) ?? 0) + 1);
    this.turn(id);
    try {
      return await work();
    } finally {
      const left = (this.changing.get(id) ?? 1) - 1;
      if (left === 0) this.changing.delete(id);
      else this.changing.set(id, left);
      this.turn(id);
    }
  }

  /** True when it differs from what was known. */
  note(id: string, status: InstanceStatus): boolean {
    const before = this.states.get(id);
    this.states.set(id, status.powerState);
    return before !== status.powerState;
  }

  forget(id: string): void {
    this.states.delete(id);
    this.turns.delete(id);
  }

  /** A mark to tell later, with isNews, whether a look that began now saw only the instance's own doing. */
  marks(): ReadonlyMap<string, number> {
    return new Map(this.turns);
  }

  isNews({ ref, status }: Found<InstanceStatus>, marks: ReadonlyMap<string, number>): boolean {
    if (this.changing.has(ref.id) || this.turns.get(ref.id) !== marks.get(ref.id)) return false;
    return this.note(ref.id, status);
  }

  private turn(id: string): void {
    this.turns.set(id, (this.turns.get(id) ?? 0) + 1);
  }
}

export interface WatchParts {
  virsh: Virsh;
  known: Known;
  log: DriverLog;
  inventory(): Promise<Found<InstanceStatus>[]>;
  /** Called at each tick. */
  tend(): Promise<void>;
}

/** Starts watching; the result ends it. */
export function watchInstances(parts: WatchParts, onChange: (found: Found<InstanceStatus>) => void): () => void {
  const stop = new AbortController();
  let child: ChildProcess | undefined;
  let due = true;
  let wake = () => {};
  const lookSoon = () => {
    due = true;
    wake();
  };
  const listen = async () => {
    while (!stop.signal.aborted) {
      child = parts.virsh.events();
      child.stdout?.on('data', lookSoon);
      child.stderr?.resume();
      lookSoon();
      await new Promise<void>((resolve) => child?.once('close', () => resolve()).once('error', () => resolve()));
      await pause(restartMs, stop.signal);
    }
  };
  const look = async () => {
    while (!stop.signal.aborted) {
      due = false;
      await lookOnce(parts, onChange);
      if (due) await pause(100, stop.signal);
      else await Promise.race([pause(tickMs, stop.signal), new Promise<void>((resolve) => (wake = resolve))]);
    }
  };
  const failed = (error: unknown) => parts.log.error({ err: error }, 'watching the hypervisor ended');
  listen().catch(failed);
  look().catch(failed);
  return () => {
    stop.abort();
    child?.kill('SIGKILL');
  };
}

async function lookOnce(parts: WatchParts, onChange: (found: Found<InstanceStatus>) => void): Promise<void> {
  try {
    const marks = parts.known.marks();
    for (const found of await parts.inventory()) if (parts.known.isNews(found, marks)) onChange(found);
    await parts.tend();
  } catch (error) {
    parts.log.warn({ err: error }, 'looking at the hypervisor failed; trying again');
  }
}

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  // The end of watching ends the pause; that is not a failure.
  await sleep(ms, undefined, { signal }).catch(() => undefined);
}
