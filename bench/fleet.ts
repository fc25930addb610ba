/**
 * `npm run bench:fleet`: many simulated agents with machines of their own on one rhyzome-grpc. Measures how long it takes until all
 * machines are made, what the fleet costs while nothing happens, how soon all are back after the server was killed, how
 * long jobs wait at 20 creates a second (or `--rate`), and how many creates there can be. `-- --agents 200` makes it smaller, `--made` begins with
 * machines that run already, `--json` is for machines.
 */
import 'reflect-metadata';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { type FleetStack, startFleetStack } from './fleet-stack.js';
import { cpuMs, residentMiB, treeCpuMs, yardstickMs } from './stack.js';

const { values: asked } = parseArgs({
  options: {
    agents: { type: 'string', default: '1000' },
    machines: { type: 'string', default: '20' },
    seconds: { type: 'string', default: '30' },
    rate: { type: 'string', default: '20' },
    made: { type: 'boolean' },
    json: { type: 'boolean' },
  },
});
const options = {
  agents: Number(asked.agents),
  machinesOfAgent: Number(asked.machines),
  areMade: asked.made ?? false,
};
const seconds = Number(asked.seconds);
const rate = Number(asked.rate);
const CLIENTS = 16;
const WARM_PER_SECOND = 10;
const WARM_SECONDS = 10;
const LIMIT_MS = 15 * 60_000;

/** Seconds until the query says true. */
async function secondsUntil(stack: FleetStack, query: string, values: unknown[] = []): Promise<number> {
  const began = performance.now();
  while (performance.now() - began < LIMIT_MS) {
    const { rows } = await stack.db.query<{ is: boolean }>(query, values);
    if (rows[0]?.is) return (performance.now() - began) / 1000;
    await sleep(100);
  }
  throw new Error(`not within ${LIMIT_MS / 60_000} minutes: ${query}`);
}

const isMade = 'select not exists (select from placement where observed_revision < revision) as is';
const isBack = 'select count(*) filter (where replica is not null and connected_at > $1) >= $2 as is from node_session';

/** What `work` costs: time that passes, CPU time (s) of the servers, PostgreSQL and all agents, transactions. */
async function costOf(stack: FleetStack, work: () => Promise<unknown>) {
  const of = async () => ({
    seconds: performance.now() / 1000,
    grpcCpu: cpuMs(stack.grpcPid) / 1000,
    postgresCpu: treeCpuMs(stack.postgresPid) / 1000,
    apiCpu: cpuMs(stack.apiPid) / 1000,
    agentsCpu: stack.agentPids.reduce((sum, pid) => sum + cpuMs(pid), 0) / 1000,
    transactions: await stack.transactions(),
  });
  const [before, pid] = [await of(), stack.grpcPid];
  await work();
  const after = await of();
  // Another process began with nothing.
  if (stack.grpcPid !== pid) before.grpcCpu = 0;
  const keys = Object.keys(before) as (keyof typeof before)[];
  return Object.fromEntries(keys.map((key) => [key, round(after[key] - before[key], 1)]));
}

function round(value: number, digits: number): number {
  return Number(value.toFixed(digits));
}

let count = 0;
/** Answers that said: too much is under way, or the database does not answer in time. */
let refusals = 0;

async function post(stack: FleetStack, path: string, body: object): Promise<void> {
  for (;;) {
    const response = await fetch(`${stack.api}${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${stack.token}`, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    const text = await response.text();
    if (response.ok) return;
    if (response.status !== 503) throw new Error(`POST ${path}: ${response.status} ${text}`);
    refusals += 1;
    await sleep(500);
  }
}

/** A machine; each client has a network of its own. */
function create(stack: FleetStack, client: number): Promise<unknown> {
  const interfaces = [{ network: `bench-${client}` }];
  return post(stack, '/instances', { name: `bench-${count++}`, image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces });
}

/** How long jobs waited and took that were asked for since then (ms). */
async function timesSince(stack: FleetStack, since: Date) {
  await secondsUntil(stack, 'select not exists (select from job where finished_at is null) as is');
  const { rows } = await stack.db.query<Record<string, number>>(
    `select count(*)::int as jobs, count(*) filter (where state <> 'succeeded')::int as failed,
       extract(epoch from max(finished_at) - min(created_at))::float as seconds,
       percentile_cont(0.5) within group (order by extract(epoch from started_at - created_at) * 1000) as "startP50Ms",
       percentile_cont(0.99) within group (order by extract(epoch from started_at - created_at) * 1000) as "startP99Ms",
       percentile_cont(0.5) within group (order by extract(epoch from finished_at - created_at) * 1000) as "readyP50Ms",
       percentile_cont(0.99) within group (order by extract(epoch from finished_at - created_at) * 1000) as "readyP99Ms"
     from job where created_at > $1 and kind = 'instance'`,
    [since],
  );
  return Object.fromEntries(Object.entries(rows[0]!).map(([key, value]) => [key, round(Number(value), 1)]));
}

async function now(stack: FleetStack): Promise<Date> {
  return (await stack.db.query<{ at: Date }>('select clock_timestamp() as at')).rows[0]!.at;
}

async function measure(stack: FleetStack) {
  const idleMiB = residentMiB(stack.grpcPid);
  await stack.startAgents();
  const first = await costOf(stack, async () => {
    await secondsUntil(stack, isBack, [new Date(0), options.agents]);
    await secondsUntil(stack, isMade);
  });
  say(`until all ${options.agents} agents are there and their ${options.machinesOfAgent} machines made`, first);
  await sleep(10_000);
  const quiet = await costOf(stack, () => sleep(seconds * 1000));
  const fleetMiB = residentMiB(stack.grpcPid);
  say('while nothing happens', { ...quiet, fleetMiB, idleMiB });
  const killedAt = await now(stack);
  let startSeconds = 0;
  const back = await costOf(stack, async () => {
    const began = performance.now();
    await stack.restartGrpc();
    startSeconds = round((performance.now() - began) / 1000, 1);
    await secondsUntil(stack, isBack, [killedAt, options.agents]);
  });
  say('until all are back after the server was killed', { ...back, startSeconds });
  await sleep(15_000);
  for (let n = 0; n < CLIENTS; n += 1) await post(stack, '/networks', { name: `bench-${n}`, subnet: `10.${n}.0.0/16` });
  await warmUp(stack);
  const yardstick = round(yardstickMs(), 1);
  const steadySince = await now(stack);
  const steadyCost = await costOf(stack, () => steady(stack, rate, seconds));
  const steadyTimes = await timesSince(stack, steadySince);
  say(`${rate} creates a second`, { yardstickMs: yardstick, ...steadyTimes, ...steadyCost });
  const fullSince = await now(stack);
  const fullTimes: Record<string, number> = {};
  const fullCost = await costOf(stack, async () => {
    await asManyAsCanBe(stack);
    Object.assign(fullTimes, await timesSince(stack, fullSince));
  });
  const perSecond = round(fullTimes.jobs! / fullTimes.seconds!, 1);
  say('as many creates as can be', { perSecond, ...fullTimes, ...fullCost });
  const sizes = { ...options, yardstickMs: yardstick, idleMiB, fleetMiB, startSeconds, perSecond, refusals };
  return { ...sizes, first, quiet, back, steadyTimes, steadyCost, fullTimes, fullCost };
}

/**
 * Servers that have worked for a while, and a database that knows its tables: what was just started, and whose statements are
 * all planned anew because the tables were looked at, is slow for some seconds.
 */
async function warmUp(stack: FleetStack): Promise<void> {
  const work = async () => {
    await steady(stack, WARM_PER_SECOND, WARM_SECONDS);
    await secondsUntil(stack, 'select not exists (select from job where finished_at is null) as is');
  };
  await work();
  await stack.db.query('analyze');
  await work();
}

/** So many a second, whatever becomes of those before. */
async function steady(stack: FleetStack, perSecond: number, forSeconds: number): Promise<void> {
  const asked: Promise<unknown>[] = [];
  const began = performance.now();
  for (let n = 0; n < forSeconds * perSecond; n += 1) {
    const dueMs = (n * 1000) / perSecond - (performance.now() - began);
    if (dueMs > 0) await sleep(dueMs);
    asked.push(create(stack, n % CLIENTS));
  }
  await Promise.all(asked);
}

/** Each client asks for the next as soon as one is accepted, until as many wait as can be made in a few seconds. */
async function asManyAsCanBe(stack: FleetStack): Promise<void> {
  const end = performance.now() + (seconds / 3) * 1000;
  const client = async (n: number) => {
    while (performance.now() < end) await create(stack, n);
  };
  await Promise.all(Array.from({ length: CLIENTS }, (_, n) => client(n)));
}

function say(what: string, figures: object): void {
  if (asked.json) return;
  console.log(what);
  console.table([figures]);
}

const stack = await startFleetStack(options);
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, () => void stack.stop().finally(() => process.exit(130)));
try {
  const result = await measure(stack);
  if (asked.json) process.stdout.write(`${JSON.stringify(result, null, 2)}\n`);
} finally {
  await stack.stop();
}
