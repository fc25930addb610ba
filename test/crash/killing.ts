/**
 * Leads many lives at once, each in a tenant of its own, and lets a process die while each of their jobs is at a point that
 * was chosen: one kill is the crash of all. Knows nothing of what is whole; each life and the invariants do.
 */
import { sql } from 'kysely';
import { expect } from 'vitest';
import type { ChangeResult, JobView, KindDefinition } from '#libs/resources';
import { clearFaults, injectFaults } from '../harness/faults.js';
import { until } from '../harness/until.js';
import { type Life, type LifeOptions, onNodes, openLife, type Step } from './lives.js';
import type { Stage } from './stage.js';
import type { Victims } from './victims.js';

/** Of lives that are led at once. */
const BATCH = 150;
/** Tenants that are prepared, and requests that are sent, at once. */
const AT_ONCE = 8;
/** Nothing has moved for so long: what is not at its point waits for another that is. */
const STILL_MS = 5_000;

export interface Led extends Wanted {
  life: Life;
}

interface Asked {
  life: Life;
  step: string;
  jobId: string;
}

/** How a step of a kind goes where nobody dies. */
export interface KnownStep {
  points: number;
  end: string;
  /** By the point at which it was cancelled: how many points the way back has. */
  back: Map<number, number>;
}

/** By kind, then by the step's name. */
export type Known = Map<string, Map<string, KnownStep>>;

export interface Wanted {
  kind: KindDefinition;
  /** The number of the point at which the job of a step is held when its process is killed. */
  at: (step: string) => number;
  /** It is cancelled there, and the next process is killed at this point of the way back; 0: at none, and they are counted. */
  backAt?: number;
}

/** How many jobs were at their point when the process died; were cancelled there; and were at one of their way back. */
export interface Tried {
  jobs: number;
  cancelled: number;
  back: number;
}

export async function each<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const worker = async () => {
    for (let at = next++; at < items.length; at = next++) results[at] = await work(items[at]!);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return results;
}

const tenantOf = ({ caller }: Life): string => caller.actor.tenantId;
/** A node takes in nothing of what it has not got rid of. */
async function whenThereIsRoom(send: Step['ask']): Promise<ChangeResult> {
  const tried = () =>
    send().catch((error: { code?: string }) => {
      if (error.code !== 'no_capacity') throw error;
      return undefined;
    });
  return until('a node that can take it', tried, 60_000);
}

const nameOf = ({ name }: Step, { kind }: Life): string => `${name} of ${kind.name}`;
const turnsOf = (lives: readonly Life[]): number => Math.max(...lives.map(({ steps }) => steps.length));

export class Killing {
  constructor(
    private readonly stage: Stage,
    readonly victims: Victims,
    private readonly options: LifeOptions = {},
  ) {}

  /** One life a kind without a crash. */
  async explore(kinds: readonly KindDefinition[]): Promise<Known> {
    const { victims } = this;
    await this.stage.openSecond(false);
    const lives = await each(kinds, (kind) => openLife(this.stage.platform, kind, this.options));
    const known: Known = new Map(kinds.map(({ name }) => [name, new Map()]));
    for (let turn = 0; turn < turnsOf(lives); turn++) {
      await victims.arm(Object.fromEntries(lives.map((life) => [tenantOf(life), 0])));
      const asked = await this.ask(lives, turn);
      await this.allEnded(asked);
      for (const one of asked) {
        const before = known.get(one.life.kind.name)!.get(one.step)?.points ?? 0;
        const points = Math.max(before, this.pointsOf(one.life));
        const { state } = await this.viewOf(one);
        known.get(one.life.kind.name)!.set(one.step, { points, end: state, back: new Map() });
      }
    }
    await each(lives, (life) => life.expectWhole());
    return known;
  }

  /** Leads lives of these kinds, in each step of which the process is killed. What is not known is to succeed. */
  async lead(wanted: readonly Wanted[], known: Known = new Map()): Promise<Tried> {
    const tried: Tried = { jobs: 0, cancelled: 0, back: 0 };
    for (let from = 0; from < wanted.length; from += BATCH) {
      const batch = wanted.slice(from, from + BATCH);
      // What is made for them is made on the first node.
      await this.stage.openSecond(false);
      const led = await each(batch, async (one) => ({
        ...one,
        life: await openLife(this.stage.platform, one.kind, this.options),
      }));
      const { jobs, cancelled, back } = await this.leadAll(led, known);
      tried.jobs += jobs;
      tried.cancelled += cancelled;
      tried.back += back;
      if (this.options.isRemoved) await each(led, ({ life }) => life.remove());
    }
    return tried;
  }

  /** The same of lives that were opened. */
  async leadAll(led: readonly Led[], known: Known = new Map()): Promise<Tried> {
    const tried: Tried = { jobs: 0, cancelled: 0, back: 0 };
    for (let turn = 0; turn < turnsOf(led.map(({ life }) => life)); turn++) {
      const { jobs, cancelled, back } = await this.takeTurn(led, turn, known);
      tried.jobs += jobs;
      tried.cancelled += cancelled;
      tried.back += back;
    }
    await each(led, ({ life }) => life.expectWhole());
    return tried;
  }

  private async takeTurn(led: readonly Led[], turn: number, known: Known): Promise<Tried> {
    const { victims } = this;
    const ledBy = new Map(led.map((one) => [one.life, one]));
    const points = led.flatMap(({ life, at }) => {
      const step = life.steps[turn];
      return step ? [[tenantOf(life), at(nameOf(step, life))] as const] : [];
    });
    await victims.arm(Object.fromEntries(points));
    const asked = await this.ask([...ledBy.keys()], turn);
    const held = await this.held(asked);
    const cancelled = await this.cancel(held.filter(({ life }) => ledBy.get(life)!.backAt !== undefined));
    const back = cancelled.map(({ life }) => [tenantOf(life), ledBy.get(life)!.backAt!] as const);
    await this.replace(Object.fromEntries(back));
    let heldBack: Asked[] = [];
    if (back.some(([, at]) => at > 0)) {
      heldBack = await this.held(cancelled);
      await this.replace();
    }
    await this.allEnded(asked);
    const undone: Life[] = [];
    for (const one of asked) {
      const { at, backAt } = ledBy.get(one.life)!;
      const step = known.get(one.life.kind.name)?.get(one.step);
      const end = step?.end ?? 'succeeded';
      const wasCancelled = cancelled.includes(one);
      if (wasCancelled && backAt === 0) step?.back.set(at(one.step), this.pointsOf(one.life));
      const killed = `killed at point ${at(one.step)}${wasCancelled ? `, cancelled, killed at ${backAt}` : ''}`;
      const mayFail = victims !== this.stage.grpc && one.life.steps[turn]!.isMove;
      const ends = [wasCancelled ? 'cancelled' : end, ...(mayFail ? ['failed'] : [])];
      const state = await this.expectEnd(one, ends, killed);
      if (state !== end) undone.push(one.life);
    }
    // What was undone is asked for once more, and nobody dies.
    await victims.arm({});
    const again = await this.ask(undone, turn);
    await this.allEnded(again);
    for (const one of again) {
      const end = known.get(one.life.kind.name)?.get(one.step)?.end;
      await this.expectEnd(one, [end ?? 'succeeded'], 'asked for again after it was undone');
    }
    return { jobs: held.length, cancelled: cancelled.length, back: heldBack.length };
  }

  private async expectEnd(one: Asked, ends: readonly string[], how: string): Promise<string> {
    const { state, error } = await this.viewOf(one);
    expect(ends, `${one.step}, ${how}: ${JSON.stringify(error)}`).toContain(state);
    return state;
  }

  /** Gives those that were not too far. */
  private async cancel(held: readonly Asked[]): Promise<Asked[]> {
    const cancelled = await each(held, async (one) => {
      try {
        await this.stage.platform.jobs.cancel(one.life.caller, one.jobId);
        return [one];
      } catch (error) {
        if ((error as { code?: string }).code !== 'not_cancellable') throw error;
        return [];
      }
    });
    return cancelled.flat();
  }

  /** The one that runs dies, and a spare takes its place, armed with these points. */
  private async replace(points: Record<string, number> = {}): Promise<void> {
    await this.victims.kill();
    // A job of an agent's goes on in the server that it has.
    if (this.victims === this.stage.grpc) await this.stage.expireLeases();
    await this.victims.next(points);
  }

  /** How many points the work of a life's tenant has passed since it was armed. */
  pointsOf(life: Life): number {
    const passed = this.victims.reached.filter(({ tenant }) => tenant === tenantOf(life));
    return Math.max(0, ...passed.map(({ number }) => number));
  }

  /** Asks for each life's step of this turn, while nodes refuse or do not. */
  private async ask(lives: readonly Life[], turn: number): Promise<Asked[]> {
    const due = lives.filter(({ steps }) => steps[turn]);
    const isRefused = due.some(({ steps }) => steps[turn]!.isRefused);
    if (isRefused) {
      const refuse = (kind: string) => ({ kind, operation: 'apply' as const, code: 'no_luck', permanent: true });
      injectFaults(this.stage.stack, onNodes.map(refuse));
    } else clearFaults(this.stage.stack);
    await this.stage.openSecond(due.some(({ steps }) => steps[turn]!.isMove));
    const asked = await each(due, async (life) => {
      const { ask: send, isMove } = life.steps[turn]!;
      const { jobId } = isMove ? await whenThereIsRoom(send) : await send();
      // A change that needs no job has nothing that could be interrupted.
      return jobId ? [{ life, step: nameOf(life.steps[turn]!, life), jobId }] : [];
    });
    return asked.flat();
  }

  private async unended(asked: readonly Asked[]): Promise<Asked[]> {
    if (asked.length === 0) return [];
    const { rows } = await sql<{ id: string }>`select id from job where finished_at is null
      and id in (${sql.join(asked.map(({ jobId }) => jobId))})`.execute(this.stage.platform.db.operator);
    const ids = new Set(rows.map(({ id }) => id));
    return asked.filter(({ jobId }) => ids.has(jobId));
  }

  /** Until every job is held at its point or has ended; gives those that are held. */
  private async held(asked: readonly Asked[]): Promise<Asked[]> {
    const { victims } = this;
    const isHeld = () => new Set(victims.reached.filter((point) => point.isHeld).map(({ tenant }) => tenant));
    let seen = -1;
    let movedAt = Date.now();
    await until(
      'every job at its point',
      async () => {
        if (victims.reached.length !== seen) [seen, movedAt] = [victims.reached.length, Date.now()];
        const there = isHeld();
        const open = (await this.unended(asked)).filter(({ life }) => !there.has(tenantOf(life)));
        return open.length === 0 || Date.now() - movedAt > STILL_MS;
      },
      120_000,
    );
    const there = isHeld();
    return asked.filter(({ life }) => there.has(tenantOf(life)));
  }

  private async allEnded(asked: readonly Asked[]): Promise<void> {
    let open: Asked[] = [];
    await until(
      'the end of all jobs',
      async () => {
        await this.stage.resolveUnclear();
        open = await this.unended(asked);
        return open.length === 0;
      },
      120_000,
    ).catch(async (error: Error) => {
      const views = await each(open, (one) => this.viewOf(one));
      throw new Error(`${error.message}: ${JSON.stringify(views.slice(0, 5))}`);
    });
  }

  private viewOf({ life, jobId }: Asked): Promise<JobView> {
    return this.stage.platform.jobs.get(life.caller, jobId);
  }
}
