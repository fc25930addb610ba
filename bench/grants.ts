/**
 * What grants cost: GET one and a list of 100 networks by a caller who may read them by its role, and by callers with 10 and
 * 200 grants of several shapes; asked in turn in one process, medians of the rounds, in CPU time of this process and of its
 * PostgreSQL backend together, without HTTP, which costs all the same and would flatter the ratio.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { sql } from 'kysely';
import { AccessDirectory, type Actor } from '#libs/auth';
import { newId } from '#libs/core';
import { createPool, Database, migrate } from '#libs/db';
import { startPostgres } from '#libs/devdb';
import { kinds } from '#libs/kinds';
import { KindRegistry, ResourceReader, readInstallation } from '#libs/resources';
import { schedulerMs } from './scale.js';

export interface GrantResult {
  case: string;
  grants: number;
  /** CPU time by that of the caller with a role: median of the rounds. */
  ratio: number;
  aim: number;
  /** CPU time a request in ms, of this caller and of the one with a role: medians. */
  cpuMs: [number, number];
  /** Statements a request, beyond the first one with a token. */
  statements: number;
}

const TENANT = 'bench';
const ROWS = 500;
const REQUESTS = { get: 60, list: 15 };

/** Every network has `place`, one of 200, and `env`; each of these reaches at least half of them. */
const shapes: Record<
  string,
  (n: number, count: number, ids: readonly string[]) => { selector?: string; ids?: string[] }
> = {
  'by values of one tag': (n) => ({ selector: `place=p${n}` }),
  'by two tags each': (n) => ({ selector: `env=prod,place=p${n}` }),
  'by what lacks a tag': (n) => ({ selector: n === 0 ? '!gone' : `place=p${n},!gone` }),
  'by ids': (n, count, ids) => ({ ids: ids.filter((_, i) => i % count === n) }),
};

const median = (values: number[]): number => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;

/** On a PostgreSQL of its own, which goes afterwards. */
export async function benchGrants(isQuick: boolean, log?: (result: GrantResult) => void): Promise<GrantResult[]> {
  const dir = mkdtempSync(join(tmpdir(), 'rhyzome-grants-'));
  const postgres = await startPostgres({ dir, fast: true });
  try {
    const connectionString = postgres.superuserUrl('postgres');
    await migrate({ connectionString }, fileURLToPath(new URL('../../sql/migrations', import.meta.url)));
    const subjects = await seed(connectionString);
    return await measure(connectionString, subjects, isQuick ? 5 : 25, log);
  } finally {
    await postgres.stop();
    rmSync(dir, { recursive: true });
  }
}

interface Subject {
  name: string;
  grants: number;
}

async function seed(connectionString: string): Promise<Subject[]> {
  const pool = createPool({ connectionString }, null, { max: 1 });
  const ids = Array.from({ length: ROWS }, newId);
  await pool.query(`insert into tenant (id, display_name) values ('${TENANT}', '')`);
  await pool.query(
    `insert into resource (tenant_id, id, kind, name, tags, state, created_by)
     select '${TENANT}', id, 'network', 'net-' || n, jsonb_build_object('env', 'prod', 'place', 'p' || n % 10, 'note', 'x'), 'ready', 'bench'
     from unnest($1::uuid[]) with ordinality as ids (id, n)`,
    [ids],
  );
  await pool.query(
    `insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
     select '${TENANT}', id, '10.0.0.0/24', '10.0.0.1', 1450, 253, '10.0.0.2' from unnest($1::uuid[]) as ids (id)`,
    [ids],
  );
  const subjects: Subject[] = [];
  for (const [shape, grantOf] of Object.entries(shapes)) {
    for (const count of [10, 200]) {
      const subject = { name: `${count} ${shape}`, grants: count };
      subjects.push(subject);
      const rules = Array.from({ length: count }, (_, n) => ({ grant: newId(), ...grantOf(n, count, ids) }));
      await pool.query(
        `with rule as (select * from jsonb_to_recordset($1) as rule ("grant" uuid, selector text, ids uuid[])),
           made as (insert into resource (tenant_id, id, kind, name, state, created_by)
             select '${TENANT}', "grant", 'grant', 'g' || "grant", 'ready', 'bench' from rule returning id)
         select count(*) from made`,
        [JSON.stringify(rules)],
      );
      await pool.query(
        `insert into access_rule (tenant_id, grant_id, ordinal, subject_type, subject, verbs, kinds, selector, resource_ids)
         select '${TENANT}', "grant", 0, 'sub', $1, '{read}', '{network}', selector, ids
         from jsonb_to_recordset($2) as rule ("grant" uuid, selector text, ids uuid[])`,
        [subject.name, JSON.stringify(rules)],
      );
    }
  }
  await pool.query('vacuum analyze');
  await pool.end();
  return subjects;
}

type Ask = (base: Actor, n: number) => Promise<void>;

async function measure(
  connectionString: string,
  subjects: readonly Subject[],
  rounds: number,
  log: ((result: GrantResult) => void) | undefined,
): Promise<GrantResult[]> {
  let statements = 0;
  const db = new Database({ app: { connectionString }, maxConnections: 1, onQuery: () => statements++ });
  try {
    const [backend] = await db.unscopedRead(sql<{ pid: number }>`select pg_backend_pid() as pid`.compile(db.builder));
    const directory = new AccessDirectory(db);
    const reader = new ResourceReader(db, (await readInstallation(db)).tokenKey);
    const network = new KindRegistry(kinds).get('network');
    const callerOf = async (base: Actor) => ({ actor: await directory.enrich(base), requestId: 'bench' });
    const base = (subject: string, roles: Actor['roles']): Actor => ({
      tenantId: TENANT,
      subject,
      roles,
      scopes: null,
      via: 'token',
    });
    const viewer = base('viewer', ['viewer']);
    const { items } = await reader.list(await callerOf(viewer), network, { pageSize: '500' });
    const asks: [string, number, number, Ask][] = [
      [
        'GET one',
        1.1,
        REQUESTS.get,
        async (who, n) => {
          await reader.get(await callerOf(who), network, items[n % items.length]!.id);
        },
      ],
      [
        'list of 100',
        1.2,
        REQUESTS.list,
        async (who) => {
          await reader.list(await callerOf(who), network, { pageSize: '100' });
        },
      ],
    ];
    const cpu = () => {
      const { user, system } = process.cpuUsage();
      return (user + system) / 1000 + schedulerMs(backend!.pid);
    };
    const results: GrantResult[] = [];
    for (const { name, grants } of subjects) {
      const actor = base(name, []);
      for (const [what, aim, times, ask] of asks) {
        const sample = async (who: Actor) => {
          const before = cpu();
          for (let n = 0; n < times; n++) await ask(who, n);
          return (cpu() - before) / times;
        };
        for (const who of [viewer, actor, viewer, actor]) await sample(who);
        const before = statements;
        await sample(actor);
        const pairs: [number, number][] = [];
        const asked = (statements - before) / times;
        for (let n = 0; n < rounds; n++) {
          if (n % 2 === 0) pairs.push([await sample(actor), await sample(viewer)]);
          else pairs.push([await sample(viewer), await sample(actor)].reverse() as [number, number]);
        }
        const of = (which: 0 | 1) => Number(median(pairs.map((pair) => pair[which])).toFixed(3));
        const result: GrantResult = {
          case: `${what}, ${name}`,
          grants,
          ratio: Number(median(pairs.map(([own, role]) => own / role)).toFixed(2)),
          aim,
          cpuMs: [of(0), of(1)],
          statements: asked,
        };
        log?.(result);
        results.push(result);
      }
    }
    return results;
  } finally {
    await db.close();
  }
}

/** One line a case. */
export function printGrants({ case: name, ratio, aim, cpuMs, statements }: GrantResult): void {
  console.log(
    `${String(ratio).padEnd(6)}${ratio > aim ? '!' : ' '} ${cpuMs.join(' / ').padEnd(16)} ${statements} ${name}`,
  );
}
