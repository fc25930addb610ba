/**
 * The walls in the database alone: every statement that the servers made for two tenants, over all kinds and routes, is
 * made again as rhyzome_app in one tenant's scope with the application's own filters dropped, with the other's id in place
 * of its own, and with all that the other had asked with. What it shows must be the same as when no other tenant exists,
 * and what it writes must leave every other tenant's rows as they were.
 */
import 'reflect-metadata';
import { existsSync } from 'node:fs';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type AskedStatement, createPool } from '#libs/db';
import { kinds } from '#libs/kinds';
import type { Caller, KindDefinition } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';
import type { ContractContext, KindContract } from '#libs/testing/contract';
import { askAt, serve } from './test-server.js';

interface Asked {
  text: string;
  parameters: readonly unknown[];
  tenantId: string;
}

interface Pair {
  kind: KindDefinition;
  own: string;
  foreign: string;
}

const pairs: Pair[] = [];
const asked = new Map<string, Asked>();
let platform: Platform;
let app: NestFastifyApplication;
let base: string;

const note = (text: string, { parameters, tenantId }: AskedStatement) => {
  if (tenantId === undefined || !/\b(from|into|update|select)\b/i.test(text) || /^select set_config/.test(text)) return;
  // One of a text and tenant is enough: what differs is what was asked with.
  asked.set(`${tenantId} ${text}`, { text, parameters, tenantId });
};

beforeAll(async () => {
  platform = await startPlatform({ kinds, onQuery: note });
  app = await serve(platform);
  base = await app.getUrl();
  const installed = new Set<unknown>();
  for (const kind of kinds) {
    const file = new URL(`../../libs/kinds/${kind.name}/${kind.name}.contract.ts`, import.meta.url);
    if (!existsSync(file)) throw new Error(`${file.pathname} is missing`);
    const { contract } = (await import(file.href)) as { contract: KindContract };
    const pair = { kind, own: `own${kind.name}`, foreign: `foreign${kind.name}` };
    pairs.push(pair);
    if (!('insert' in contract) && contract.install && !installed.has(String(contract.install))) {
      installed.add(String(contract.install));
      await contract.install(platform).catch((error: { code?: string }) => {
        if (error.code !== '23505') throw error; // another kind has put the same there
      });
    }
    const ids = [await live(pair.own, kind, contract), await live(pair.foreign, kind, contract)];
    await Promise.all([pair.own, pair.foreign].map((tenant) => readAll(tenant, kind, ids)));
  }
}, 240_000);
afterAll(async () => {
  await app?.close();
  await platform?.close();
});

/** Makes one, changes it, acts on it, and leaves it there; returns its id. */
async function live(tenantId: string, kind: KindDefinition, contract: KindContract): Promise<string> {
  const caller = await platform.tenant(tenantId);
  if ('insert' in contract) return (await contract.insert(platform)).id;
  const ctx = contextOf(caller, kind);
  await contract.prepare?.(ctx);
  const { pipeline } = platform;
  const made = await pipeline.create(caller, kind, contract.create(ctx));
  const { id } = made.body;
  const { registry } = platform;
  await platform.ended(caller, made.jobId!);
  const changes = kind.changes ?? ['create', 'update', 'delete'];
  if (changes.includes('update')) {
    await platform.ended(caller, (await pipeline.update(caller, kind, id, contract.patch)).jobId!);
  }
  for (const [action, body] of Object.entries(contract.actions ?? {})) {
    const change = await pipeline.act(caller, kind, id, action, body).catch(() => undefined);
    if (change) await platform.ended(caller, change.jobId!);
  }
  // Another one, which goes again.
  const other = await pipeline.create(caller, kind, contract.create(ctx)).catch(() => undefined);
  if (other) {
    await platform.ended(caller, other.jobId!);
    const gone = await pipeline.remove(caller, registry.get(kind.name), other.body.id, { cascade: true });
    if (gone.jobId) await platform.ended(caller, gone.jobId);
  }
  return id;
}

function contextOf(caller: Caller, kind: KindDefinition): ContractContext {
  let names = 0;
  return {
    platform,
    kind,
    caller,
    unique: () => `${caller.actor.tenantId}-${++names}`,
    make: async (kindName, body) => {
      const change = await platform.pipeline.create(caller, platform.registry.get(kindName), body);
      await platform.ended(caller, change.jobId!);
      return change.body.id;
    },
  };
}

/** What there is to read by HTTP, also of the other's. */
async function readAll(tenant: string, kind: KindDefinition, ids: string[]): Promise<void> {
  const token = `admin.${tenant}`;
  const get = async (path: string) => (await askAt(base, path, { token })).body;
  const { items: jobs } = await get('/v1/jobs?pageSize=3');
  const plural = `/v1/${kind.plural}`;
  const paths = [
    `${plural}?count=true`,
    `${plural}?sort=-name&pageSize=1`,
    `${plural}?state=ready&tagSelector=tier`,
    `${plural}?tagSelector=tier=back,!none`,
    `${plural}?tagSelector=${encodeURIComponent('tier notin (a,b)')}`,
    ...Object.keys(kind.filters ?? {}).map((name) => `${plural}?${name}=${ids[0]}`),
    ...ids.flatMap((id) => [
      `${plural}/${id}`,
      `${plural}/${id}/metrics`,
      `${plural}/${id}/leases`,
      `${plural}/${id}/config`,
    ]),
    `${plural}/no-such-name`,
    ...jobs.map(({ id }: { id: string }) => `/v1/jobs/${id}`),
    '/v1/jobs?state=succeeded&count=true',
    '/v1/quotas',
    '/v1/permissions',
    '/v1/audit?result=done&count=true',
    '/v1/audit/export',
    '/v1/deleted-disks',
    '/v1/events?since=x',
  ];
  for (const path of paths) await get(path);
  await platform.events.read(tenant, 0, {});
  await platform.events.head(tenant);
}

const filter =
  /((?:"?\w+"?\.)?"?(?:target_)?tenant_id"?)\s*(=|<>|in|not in)\s*(any\s*\([^()]*\)|<?all\s*\([^()]*\)|\$\d+|'\w+'|\([^()]*\))/gi;

/** The statement without its conditions on the tenant; what they were asked with stays, so that the numbers fit. */
function withoutFilters(text: string): string {
  return text.replace(filter, (_, _column, _operator, value: string) => {
    if (/^(any|all)/i.test(value)) return `(${value.replace(/^\w+\s*/, '')} is not null or true)`;
    return value.startsWith('(')
      ? `(array[${value.slice(1, -1)}]::text[] is not null or true)`
      : `(${value}::text is not null or true)`;
  });
}

const isWrite = (text: string) => /\b(insert into|update\s+"?\w+"?\s+(\w+\s+)?set|delete from)\b/i.test(text);

interface Variant {
  text: string;
  parameters: readonly unknown[];
}

/** What was asked for one tenant of a pair, as it may be asked in the other's scope. */
function variantsOf(pair: Pair): Variant[] {
  const found = new Map<string, Variant>();
  const add = (text: string, parameters: readonly unknown[]) => {
    for (const one of [text, withoutFilters(text)]) {
      found.set(
        JSON.stringify([one, parameters], (_, value) => (typeof value === 'bigint' ? String(value) : value)),
        {
          text: one,
          parameters,
        },
      );
    }
  };
  for (const { text, parameters, tenantId } of asked.values()) {
    if (tenantId === pair.foreign) add(text, parameters);
    if (tenantId !== pair.own) continue;
    add(text, parameters);
    add(
      text,
      parameters.map((value) => (value === pair.own ? pair.foreign : value)),
    );
  }
  return [...found.values()];
}

/** In a transaction of the superuser's, which is rolled back. */
class Lab {
  constructor(
    private readonly client: pg.PoolClient,
    private readonly tables: string[],
  ) {}

  async query(text: string, parameters: readonly unknown[] = []): Promise<any[]> {
    return (await this.client.query(text, parameters as unknown[])).rows;
  }

  /** As the application in a tenant's scope; rows as text, or the SQLSTATE. Leaves nothing, unless `kept` is looked at in between. */
  async asApp(tenantId: string, { text, parameters }: Variant, kept?: () => Promise<void>): Promise<string[] | string> {
    await this.query('savepoint one');
    try {
      await this.query(`select set_config('rhyzome.tenant_id', '${tenantId}', true)`);
      await this.query('set local role rhyzome_app');
      const rows = await this.query(text, parameters);
      await this.query('reset role');
      await kept?.();
      return rows.map((row) => JSON.stringify(row)).sort();
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === undefined) throw error;
      return code;
    } finally {
      await this.query('rollback to savepoint one');
      await this.query('reset role');
    }
  }

  /** One value for all rows of all other tenants. */
  async othersDigest(tenantId: string): Promise<string> {
    const parts = this.tables.map(
      (table) =>
        `select '${table}' as name, md5(string_agg(t::text, ',' order by t::text)) as digest, count(*) from ${table} t where tenant_id <> '${tenantId}'`,
    );
    return JSON.stringify(await this.query(parts.join(' union all ')));
  }

  async removeOthers(tenantId: string): Promise<void> {
    await this.query('set local session_replication_role = replica');
    for (const table of this.tables)
      await this.query(`delete from ${table} where tenant_id not in ('${tenantId}', 'system')`);
    await this.query(`delete from tenant where id not in ('${tenantId}', 'system')`);
    await this.query('set local session_replication_role = origin');
  }
}

async function inLab<T>(work: (lab: Lab) => Promise<T>): Promise<T> {
  const pool = createPool(platform.connection, null, { max: 1 });
  const client = await pool.connect();
  try {
    const { rows } = await client.query<{ name: string }>(
      `select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
       where c.relkind in ('r', 'p') and c.relnamespace = 'public'::regnamespace and not a.attisdropped order by 1`,
    );
    await client.query('begin');
    return await work(
      new Lab(
        client,
        rows.map(({ name }) => name),
      ),
    );
  } finally {
    await client.query('rollback');
    client.release();
    await pool.end();
  }
}

const counts = { statements: 0, reads: 0, writes: 0, withoutFilter: 0, refused: 0, failed: 0 };

test.each(kinds.map(({ name }) => name))(
  'what is asked for %s shows nothing of another tenant and changes nothing',
  async (name) => {
    await platform.runner.stop(); // Nothing is under way.
    const pair = pairs.find(({ kind }) => kind.name === name)!;
    const variants = variantsOf(pair);
    expect(variants.length).toBeGreaterThan(50);
    const reads = variants.filter(({ text }) => !isWrite(text));
    const shown = await inLab(async (lab) => {
      const before = await lab.othersDigest(pair.own);
      for (const variant of variants.filter(({ text }) => isWrite(text))) {
        const outcome = await lab.asApp(pair.own, variant, async () => {
          expect(await lab.othersDigest(pair.own), variant.text).toBe(before);
        });
        counts.writes += 1;
        if (outcome === '42501') counts.refused += 1;
        else if (typeof outcome === 'string') counts.failed += 1;
      }
      const answers: (string[] | string)[] = [];
      for (const variant of reads) answers.push(await lab.asApp(pair.own, variant));
      return answers;
    });
    const alone = await inLab(async (lab) => {
      await lab.removeOthers(pair.own);
      const answers: (string[] | string)[] = [];
      for (const variant of reads) answers.push(await lab.asApp(pair.own, variant));
      return answers;
    });
    for (const [i, { text, parameters }] of reads.entries()) {
      expect(shown[i], `${text} ${JSON.stringify(parameters)}`).toEqual(alone[i]);
      counts.reads += 1;
      if (typeof shown[i] === 'string') counts.failed += 1;
    }
    counts.statements += new Set(variants.map(({ text }) => text)).size;
    counts.withoutFilter += variants.filter(({ text }) => text.includes('is not null or true)')).length;
  },
  120_000,
);

test('tried that on very many statements, few of which PostgreSQL did not take', () => {
  console.info('statements tried as rhyzome_app', JSON.stringify(counts));
  expect(counts.reads).toBeGreaterThan(1_000);
  expect(counts.writes).toBeGreaterThan(300);
  expect(counts.withoutFilter).toBeGreaterThan(700);
  expect(counts.failed).toBeLessThan((counts.reads + counts.writes) / 4);
});
