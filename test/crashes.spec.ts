/**
 * A crash at every step. Each job of the kinds that have lives is led to each point between two statements with an outside effect, in
 * rhyzome-grpc and in the agent, in undos too; there the process is killed with -9 and another goes on. The end is whole, or
 * undone; nothing is stuck, left over or there twice. Many lives are held at their points at once, each in a tenant of its
 * own, so that one kill is the crash of all.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { JobView, KindDefinition } from '#libs/resources';
import { type Life, livingKinds, onNodes, openLife, prepareAll } from './crash/lives.js';
import { openStage, type Stage } from './crash/stage.js';
import type { Victims } from './crash/victims.js';
import { clearFaults, injectFaults } from './harness/faults.js';
import { until } from './harness/until.js';

let stage: Stage;
beforeAll(async () => {
  stage = await openStage('crashes', 'sim');
  await sql`update installation set deleted_disks_kept = null`.execute(stage.platform.db.operator);
  await prepareAll(stage.platform);
}, 240_000);
afterAll(() => stage?.close(), 60_000);

/** Of lives that are led at once. */
const BATCH = 60;
/** Tenants that are prepared, and requests that are sent, at once. */
const AT_ONCE = 8;
/** Nothing has moved for so long: what is not at its point waits for another that is. */
const STILL_MS = 5_000;

interface Asked {
  life: Life;
  step: string;
  jobId: string;
}

async function each<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const worker = async () => {
    for (let at = next++; at < items.length; at = next++) results[at] = await work(items[at]!);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return results;
}

/** Asks for each life's step of this turn, while nodes refuse or do not. */
async function ask(lives: readonly Life[], turn: number): Promise<Asked[]> {
  const due = lives.filter(({ steps }) => steps[turn]);
  const isRefused = due.some(({ steps }) => steps[turn]!.isRefused);
  if (isRefused) {
    const refuse = (kind: string) => ({ kind, operation: 'apply' as const, code: 'no_luck', permanent: true });
    injectFaults(stage.stack, onNodes.map(refuse));
  } else clearFaults(stage.stack);
  const asked = await each(due, async (life) => {
    const { name, ask: send } = life.steps[turn]!;
    const { jobId } = await send();
    // A change that needs no job has nothing that could be interrupted.
    return jobId ? [{ life, step: `${name} of ${life.kind.name}`, jobId }] : [];
  });
  return asked.flat();
}

async function unended(asked: readonly Asked[]): Promise<Asked[]> {
  if (asked.length === 0) return [];
  const { rows } = await sql<{ id: string }>`select id from job where finished_at is null
    and id in (${sql.join(asked.map(({ jobId }) => jobId))})`.execute(stage.platform.db.operator);
  const ids = new Set(rows.map(({ id }) => id));
  return asked.filter(({ jobId }) => ids.has(jobId));
}

/** Until every job is held at its point or has ended; gives those that are held. */
async function held(victims: Victims, asked: readonly Asked[]): Promise<Asked[]> {
  const isHeld = () => new Set(victims.reached.filter((point) => point.isHeld).map(({ tenant }) => tenant));
  let seen = -1;
  let movedAt = Date.now();
  await until(
    'every job at its point',
    async () => {
      if (victims.reached.length !== seen) [seen, movedAt] = [victims.reached.length, Date.now()];
      const there = isHeld();
      const open = (await unended(asked)).filter(({ life }) => !there.has(life.caller.actor.tenantId));
      return open.length === 0 || Date.now() - movedAt > STILL_MS;
    },
    120_000,
  );
  const there = isHeld();
  return asked.filter(({ life }) => there.has(life.caller.actor.tenantId));
}

async function allEnded(asked: readonly Asked[]): Promise<void> {
  let open: Asked[] = [];
  const limitMs = 120_000;
  await until(
    'the end of all jobs',
    async () => {
      await stage.resolveUnclear();
      open = await unended(asked);
      return open.length === 0;
    },
    limitMs,
  ).catch(async (error: Error) => {
    const views = await each(open, ({ life, jobId }) => stage.platform.jobs.get(life.caller, jobId));
    throw new Error(`${error.message}: ${JSON.stringify(views.slice(0, 5))}`);
  });
}

const viewOf = ({ life, jobId }: Asked): Promise<JobView> => stage.platform.jobs.get(life.caller, jobId);

interface Known {
  /** How many points the longest of its steps has. */
  points: number;
  /** How each step ends, by its name. */
  ends: Map<string, string>;
}

/** One life a kind without a crash: how many points there are, and how each step ends. */
async function explore(victims: Victims, kinds: readonly KindDefinition[]): Promise<Map<string, Known>> {
  const lives = await each(kinds, (kind) => openLife(stage.platform, kind));
  const known = new Map(kinds.map(({ name }) => [name, { points: 0, ends: new Map() } as Known]));
  for (let turn = 0; turn < longest(lives); turn++) {
    await victims.arm(Object.fromEntries(lives.map(({ caller }) => [caller.actor.tenantId, 0])));
    const asked = await ask(lives, turn);
    await allEnded(asked);
    for (const one of asked) {
      const of = known.get(one.life.kind.name)!;
      const { tenantId } = one.life.caller.actor;
      of.points = Math.max(of.points, ...victims.reached.flatMap((p) => (p.tenant === tenantId ? p.number : [])));
      of.ends.set(one.step, (await viewOf(one)).state);
    }
  }
  await each(lives, (life) => life.expectWhole());
  return known;
}

const longest = (lives: readonly Life[]): number => Math.max(...lives.map(({ steps }) => steps.length));

interface Held {
  life: Life;
  /** The number of the point at which each of its jobs is held. */
  at: number;
}

/** Leads the lives, each killed once in each step; gives how many jobs were at their points when the process died. */
async function lead(
  victims: Victims,
  wanted: readonly { kind: KindDefinition; at: number }[],
  known: Map<string, Known>,
) {
  const lives: Held[] = await each(wanted, async ({ kind, at }) => ({
    life: await openLife(stage.platform, kind),
    at,
  }));
  let tried = 0;
  for (let turn = 0; turn < longest(lives.map(({ life }) => life)); turn++) {
    await victims.arm(Object.fromEntries(lives.map(({ life, at }) => [life.caller.actor.tenantId, at])));
    const asked = await ask(
      lives.map(({ life }) => life),
      turn,
    );
    tried += (await held(victims, asked)).length;
    await victims.kill();
    // A job of an agent's goes on in the server that it has.
    if (victims === stage.grpc) await stage.expireLeases();
    await victims.next();
    await allEnded(asked);
    for (const one of asked) {
      const at = lives.find(({ life }) => life === one.life)!.at;
      const { state, error } = await viewOf(one);
      expect(state, `${one.step}, killed at point ${at}: ${JSON.stringify(error)}`).toBe(
        known.get(one.life.kind.name)!.ends.get(one.step),
      );
    }
  }
  await each(lives, ({ life }) => life.expectWhole());
  return tried;
}

async function killEverywhere(victims: Victims, kinds: readonly KindDefinition[]): Promise<void> {
  const known = await explore(victims, kinds);
  const wanted = kinds.flatMap((kind) =>
    Array.from({ length: known.get(kind.name)!.points }, (_, at) => ({ kind, at: at + 1 })),
  );
  let tried = 0;
  for (let from = 0; from < wanted.length; from += BATCH) {
    tried += await lead(victims, wanted.slice(from, from + BATCH), known);
  }
  await expectNothingLeft();
  const counts = [...known].map(([name, { points }]) => `${name} ${points}`).join(', ');
  console.log(
    `${victims.program}: ${tried} jobs were at their point when it was killed, in ${victims.killed} kills; most points a job: ${counts}`,
  );
  expect(tried).toBeGreaterThan(wanted.length);
}

/** Nothing of any life in the books of nodes, no alarm that is open, and nothing on the node. */
async function expectNothingLeft(): Promise<void> {
  const { rows } = await sql`select * from node_room_drift`.execute(stage.platform.db.operator);
  expect(rows).toEqual([]);
  const alarms = await sql`select * from alarm where cleared_at is null and tenant_id <> 'system'`.execute(
    stage.platform.db.operator,
  );
  expect(alarms.rows).toEqual([]);
  const { rows: placed } = await sql<{ id: string }>`select resource_id as id from placement where present`.execute(
    stage.platform.db.operator,
  );
  const wanted = placed.map(({ id }) => id).sort();
  const file = join(stage.stack.data, 'agent', 'sim-state.json');
  await until('a node with what is placed there and no more', () => {
    const maps = Object.values(JSON.parse(readFileSync(file, 'utf8'))) as [string, unknown][][];
    const there = maps
      .flat()
      .map(([id]) => id)
      .sort();
    return JSON.stringify(there) === JSON.stringify(wanted);
  });
}

test('rhyzome-grpc killed at each point of each job of these kinds', async () => {
  // What a snapshot's jobs do is the agent's, below.
  await killEverywhere(
    stage.grpc,
    livingKinds().filter(({ name }) => name !== 'snapshot'),
  );
}, 900_000);

test('rhyzome-agent killed at each point of what it does for each kind that stands on nodes', async () => {
  await killEverywhere(
    stage.agent,
    livingKinds().filter(({ name }) => onNodes.includes(name)),
  );
}, 900_000);
