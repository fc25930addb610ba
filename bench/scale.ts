/**
 * How much more a request costs in a tenant of 100,000 resources, with 1,000,000 in all, than in one of 500: asked in turn
 * in one process, medians of the rounds, in CPU time of this process and of its PostgreSQL backend together.
 */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { Database, Listener, migrate } from '#libs/db';
import { startPostgres } from '#libs/devdb';
import { fullSize, loadScale, quickSize } from '#libs/testing';
import { type ScaleCase, scaleCases } from './scale-cases.js';

export interface ScaleResult {
  case: string;
  /** Items in the answers of both. */
  items: [number, number];
  /** CPU time in the large tenant by that in the other one: median of the rounds. */
  ratio: number;
  /** CPU time a request in ms, in both: medians. */
  cpuMs: [number, number];
  /** Of that, PostgreSQL's. */
  databaseMs: [number, number];
  statements: [number, number];
  isCounting: boolean;
}

const median = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;

interface Sample {
  cpuMs: number;
  databaseMs: number;
  statements: number;
}

export interface ScaleOptions {
  rounds: number;
  /** Requests in a round. */
  times: number;
  /** Only cases whose name contains it. */
  only?: string;
  log?: (result: ScaleResult) => void;
}

/** Measures all cases on a database that `loadScale` has filled. */
export async function measureScale(connectionString: string, options: ScaleOptions): Promise<ScaleResult[]> {
  let statements = 0;
  const db = new Database({ app: { connectionString }, maxConnections: 1, onQuery: () => statements++ });
  const listener = new Listener({ connectionString }, 'rhyzome_operator');
  try {
    const [backend] = await db.unscopedRead(sql<{ pid: number }>`select pg_backend_pid() as pid`.compile(db.builder));
    const sample = async (ask: () => Promise<number>, times: number): Promise<Sample> => {
      const before = { own: process.cpuUsage(), database: schedulerMs(backend!.pid), statements };
      for (let n = 0; n < times; n++) await ask();
      const own = process.cpuUsage(before.own);
      const databaseMs = schedulerMs(backend!.pid) - before.database;
      return {
        cpuMs: ((own.user + own.system) / 1000 + databaseMs) / times,
        databaseMs: databaseMs / times,
        statements: (statements - before.statements) / times,
      };
    };
    const results: ScaleResult[] = [];
    for (const one of await scaleCases(db, listener)) {
      if (options.only && !one.name.includes(options.only)) continue;
      const result = await compare(one, options, sample);
      options.log?.(result);
      results.push(result);
    }
    return results;
  } finally {
    await listener.close();
    await db.close();
  }
}

async function compare(
  one: ScaleCase,
  options: ScaleOptions,
  sample: (ask: () => Promise<number>, times: number) => Promise<Sample>,
): Promise<ScaleResult> {
  const asks = [await one.prepare('big'), await one.prepare(one.against)] as const;
  const items: [number, number] = [0, 0];
  // Past the executions after which PostgreSQL may settle on one plan for all (PREPARE, “Notes”).
  for (let n = 0; n < 8; n++) for (const [i, ask] of asks.entries()) items[i] = await ask();
  const times = one.times ?? options.times;
  const rounds: [Sample, Sample][] = [];
  for (let n = 0; n < options.rounds; n++) {
    // In turn, and each first as often as the other.
    if (n % 2 === 0) rounds.push([await sample(asks[0], times), await sample(asks[1], times)]);
    else rounds.push([await sample(asks[1], times), await sample(asks[0], times)].reverse() as [Sample, Sample]);
  }
  const of = (key: keyof Sample, tenant: 0 | 1) => Number(median(rounds.map((round) => round[tenant][key])).toFixed(3));
  return {
    case: one.name,
    items,
    ratio: Number(median(rounds.map(([big, other]) => big.cpuMs / other.cpuMs)).toFixed(2)),
    cpuMs: [of('cpuMs', 0), of('cpuMs', 1)],
    databaseMs: [of('databaseMs', 0), of('databaseMs', 1)],
    statements: [of('statements', 0), of('statements', 1)],
    isCounting: one.isCounting ?? false,
  };
}

/** CPU time of a process so far, in ms, by the scheduler's clock of nanoseconds (proc_pid_schedstat). */
export function schedulerMs(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
}

const migrations = fileURLToPath(new URL('../../sql/migrations', import.meta.url));

export interface ScaleReport {
  size: typeof fullSize;
  loadSeconds: number;
  rounds: number;
  results: ScaleResult[];
}

/** On a PostgreSQL of its own, which goes afterwards. `log` is told each result at once. */
export async function benchScale(isQuick: boolean, log?: (result: ScaleResult) => void): Promise<ScaleReport> {
  const dir = mkdtempSync(join(tmpdir(), 'rhyzome-scale-'));
  const postgres = await startPostgres({ dir, fast: true });
  try {
    const url = postgres.superuserUrl('postgres');
    const size = isQuick ? quickSize : fullSize;
    await migrate({ connectionString: url }, migrations);
    const loadSeconds = Math.round(await loadScale(url, size));
    const rounds = isQuick ? 3 : 7;
    const results = await measureScale(url, { rounds, times: isQuick ? 5 : 12, log });
    return { size, loadSeconds, rounds, results };
  } finally {
    await postgres.stop();
    rmSync(dir, { recursive: true });
  }
}

/** One line a case. */
export function printScale({ case: name, ratio, cpuMs, databaseMs, items, statements, isCounting }: ScaleResult): void {
  const both = (values: readonly number[]) => values.join(' / ').padEnd(16);
  const mark = isCounting ? '#' : ratio > 1.5 ? '!' : ' ';
  console.log(
    `${String(ratio).padEnd(6)}${mark} ${both(cpuMs)} ${both(databaseMs)} ${both(statements)} ${both(items)} ${name}`,
  );
}
