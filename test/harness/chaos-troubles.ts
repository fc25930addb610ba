/**
 * Troubles that befall the processes of an installation, one after the other and at once, as chance has it: killed, asked to
 * end, paused, cut off from the database; the database itself dies. Each ends by itself, and leaves its process running.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cable } from './cable.js';
import type { Chance } from './chance.js';
import type { Replica } from './replica.js';
import type { ProcessName, Stack } from './stack.js';

export interface Target {
  replica: Replica;
  /** To its database, where it has one. */
  cable?: Cable;
}

const MIN_PAUSE_MS = 1_000;
/** Longer than a lease of a job. */
const MAX_PAUSE_MS = 12_000;
const MAX_AWAY_MS = 3_000;
const MAX_BETWEEN_MS = 2_500;

type Trouble = { what: string; of: string; befall: () => Promise<void> };

export class Troubles {
  /** What happened, each with its time. */
  readonly log: string[] = [];
  private readonly under = new Map<string, Promise<void>>();

  constructor(
    private readonly stack: Stack,
    private readonly targets: readonly Target[],
    private readonly chance: Chance,
  ) {}

  /** Until it is over, and all of them have ended. */
  async run(isOver: () => boolean): Promise<void> {
    while (!isOver()) {
      // Chosen before it is known whether the target is free, so that the choices follow from the seed alone.
      const trouble = this.any();
      if (!this.under.has(trouble.of)) this.begin(trouble);
      await sleep(this.chance.whole(200, MAX_BETWEEN_MS));
    }
    await Promise.all(this.under.values());
  }

  private begin({ what, of, befall }: Trouble): void {
    this.log.push(`${new Date().toISOString()} ${of}: ${what}`);
    const under = befall().finally(() => this.under.delete(of));
    this.under.set(of, under);
  }

  private any(): Trouble {
    const { chance } = this;
    const target = chance.pick(this.targets);
    const forMs = chance.whole(MIN_PAUSE_MS, MAX_PAUSE_MS);
    const awayMs = chance.whole(0, MAX_AWAY_MS);
    const own = chance.pick(['api', 'grpc', 'agent'] as const);
    const how = chance.pick(['SIGINT', 'SIGQUIT', 'SIGKILL'] as const);
    const ways = [
      () => this.kill(target, awayMs),
      () => this.kill(target, awayMs),
      () => this.end(target, awayMs),
      () => this.pause(target, forMs),
      () => this.cut(target, forMs),
      () => this.killOwn(own),
      () => this.pauseOwn(own, forMs),
      () => this.restartDatabase(how),
    ];
    return chance.pick(ways)();
  }

  private kill({ replica }: Target, awayMs: number): Trouble {
    const befall = async () => {
      await replica.kill();
      await sleep(awayMs);
      replica.launch();
    };
    return { what: `killed, away for ${awayMs} ms`, of: replica.name, befall };
  }

  private end({ replica }: Target, awayMs: number): Trouble {
    const befall = async () => {
      await replica.end();
      await sleep(awayMs);
      replica.launch();
    };
    return { what: `asked to end, away for ${awayMs} ms`, of: replica.name, befall };
  }

  private pause({ replica }: Target, forMs: number): Trouble {
    const befall = async () => {
      replica.signal('SIGSTOP');
      await sleep(forMs);
      replica.signal('SIGCONT');
    };
    return { what: `paused for ${forMs} ms`, of: replica.name, befall };
  }

  private cut(target: Target, forMs: number): Trouble {
    const { replica, cable } = target;
    if (!cable) return this.pause(target, forMs);
    const befall = async () => {
      cable.cut();
      await sleep(forMs);
      cable.mend();
    };
    return { what: `cut off from the database for ${forMs} ms`, of: replica.name, befall };
  }

  /** Those of the stack are started again by its supervisor. */
  private killOwn(name: ProcessName): Trouble {
    const befall = async () => this.stack.restarted(name, this.stack.kill(name));
    return { what: 'killed', of: name, befall };
  }

  private pauseOwn(name: ProcessName, forMs: number): Trouble {
    const befall = async () => {
      const pid = this.stack.pid(name);
      process.kill(pid, 'SIGSTOP');
      await sleep(forMs);
      process.kill(pid, 'SIGCONT');
    };
    return { what: `paused for ${forMs} ms`, of: name, befall };
  }

  private restartDatabase(signal: NodeJS.Signals): Trouble {
    const befall = async () => {
      const before = this.stack.identity('database');
      process.kill(before.pid, signal);
      await this.stack.restarted('database', before, 90_000);
    };
    return { what: signal, of: 'database', befall };
  }
}
