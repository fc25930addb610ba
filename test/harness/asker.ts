/** Somebody who keeps asking a guest over HTTP while things happen to it, and says afterwards what came of it. */
import type { ChildProcess } from 'node:child_process';
import { resolve } from 'node:path';
import type { NodeHost } from './node-host.js';
import { until } from './until.js';

const program = resolve(import.meta.dirname, 'asking.mjs');

interface Ended {
  askedAt: number;
  endedAt: number;
  /** Null: answered. */
  error: string | null;
}

export interface Told {
  asked: number;
  failed: Ended[];
  /** The longest time in which no answer came. */
  longestGapMs: number;
}

export class Asker {
  private text = '';
  private complaints = '';

  private constructor(private readonly child: ChildProcess) {
    child.stdout?.on('data', (data) => (this.text += data));
    child.stderr?.on('data', (data) => (this.complaints += data));
  }

  /** Asks from the world outside; resolves with its first answers. */
  static async inWorld(host: NodeHost, url: string, patienceMs = 30_000): Promise<Asker> {
    // Not more often than an emulated guest on a busy machine can answer.
    const asker = new Asker(host.spawnInWorld(process.execPath, program, url, '250', String(patienceMs)));
    await until(`answers of ${url}`, () => asker.answered().length > 3, 60_000);
    return asker;
  }

  /** Asks no more, and tells what came of all questions since `since`. */
  async stop(since = 0): Promise<Told> {
    this.child.kill('SIGTERM');
    await until('the last answer', () => this.child.exitCode !== null || this.child.signalCode !== null, 60_000);
    if (this.child.exitCode !== 0) throw new Error(`the asker ended with ${this.child.exitCode}: ${this.complaints}`);
    return this.told(since);
  }

  answeredSince(since: number): boolean {
    return this.answered().some(({ askedAt }) => askedAt >= since);
  }

  private told(since: number): Told {
    const ended = this.ended().filter(({ askedAt }) => askedAt >= since);
    const times = this.answered().map(({ endedAt }) => endedAt);
    times.sort((a, b) => a - b);
    const gaps = times.flatMap((at, index) => (index > 0 && at >= since ? [at - times[index - 1]!] : []));
    const failed = ended.filter(({ error }) => error !== null);
    return { asked: ended.length, failed, longestGapMs: Math.max(0, ...gaps) };
  }

  private answered(): Ended[] {
    return this.ended().filter(({ error }) => error === null);
  }

  private ended(): Ended[] {
    const lines = this.text.split('\n').slice(0, -1);
    return lines.map((line) => JSON.parse(line) as Ended);
  }
}
