/** A watcher of a tenant's events that goes on with another replica, from the last event that it saw, however often. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Client } from './client.js';
import { EventStream, type SeenEvent } from './events.js';
import { until } from './until.js';

const PAUSE_MS = 50;

export class Watcher {
  private readonly before: SeenEvent[] = [];
  private stream: EventStream | undefined;
  private isStopping = false;
  /** Number of the last event before the first stream. */
  private begin: string | undefined;
  private running: Promise<void> = Promise.resolve();
  /** How often it has opened a stream. */
  opened = 0;

  private constructor(
    private readonly bases: () => readonly string[],
    private readonly client: Client,
  ) {}

  /** Sees what happens from now on. `bases` gives the replicas that may serve, in the order in which they are asked. */
  static async start(bases: () => readonly string[], client: Client): Promise<Watcher> {
    const watcher = new Watcher(bases, client);
    watcher.running = watcher.run();
    await until('the first comment, which says from where it tells', () => watcher.last !== undefined);
    return watcher;
  }

  /** All that it saw, in the order in which it came. */
  get seen(): SeenEvent[] {
    return [...this.before, ...(this.stream?.seen ?? [])].filter(({ id }) => id !== '');
  }

  /** Where the next stream goes on: also one that is cut before its first event. */
  private get last(): string | undefined {
    this.begin ??= this.stream?.comments[0]?.split(' ').at(-1);
    return this.seen.at(-1)?.id ?? this.begin;
  }

  /** What is wrong with the order and number of what it saw; within a tenant events are numbered without gaps. */
  get faults(): string[] {
    const ids = this.seen.map(({ id }) => Number(id));
    return ids.flatMap((id, n) => (n > 0 && id !== ids[n - 1]! + 1 ? [`${ids[n - 1]} was followed by ${id}`] : []));
  }

  /** Where it stands, for messages. */
  toString(): string {
    return `the watcher has seen ${this.seen.length} events up to ${this.seen.at(-1)?.id} over ${this.opened} streams`;
  }

  async stop(): Promise<void> {
    this.isStopping = true;
    await this.stream?.close();
    await this.running;
  }

  private async run(): Promise<void> {
    for (let turn = 0; !this.isStopping; turn += 1) {
      const bases = this.bases();
      try {
        await this.follow(bases[turn % bases.length]!);
      } catch (error) {
        // A replica that is away or on its way out; the next one is asked.
        if (!(error instanceof TypeError) && !/^50\d: /.test((error as Error).message)) throw error;
      }
      await sleep(PAUSE_MS);
    }
  }

  private async follow(base: string): Promise<void> {
    const { last } = this;
    const stream = await EventStream.open(base, this.client, '', last === undefined ? {} : { 'last-event-id': last });
    this.stream = stream;
    this.opened += 1;
    if (this.isStopping) await stream.close();
    await stream.ended();
    this.before.push(...stream.seen);
    this.stream = undefined;
  }
}
