/**
 * The walls in the database alone: every statement that the servers made for two tenants, over all kinds and routes, is
 * made again as rhyzome_app in one tenant's scope with the application's own filters dropped, with the other's id in place
 * of its own, and with all that the other had asked with. What it shows must be the same as when no other tenant exists,
 * and what it writes must leave every other tenant's rows as they were.
 */
import 'reflect-metadata';
import { existsSync } from 'node:fs';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { AskedStatement } from '#libs/db';
import { kinds } from '#libs/kinds';
import type { Caller, KindDefinition } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';
import type { ContractContext, KindContract } from '#libs/testing/contract';
import { askAt, serve } from './test-server.js';
import { type Asked, inLab, isShared, isWrite, type Pair, variantsOf } from './test-walls.js';

const pairs: Pair[] = [];
const asked = new Map<string, Asked>();
let platform: Platform;
let app: NestFastifyApplication;
let base: string;

const note = (text: string, { parameters, tenantId }: AskedStatement) => {
  if (
    tenantId === undefined ||
    !/\b(from|into|update|select)\b/i.test(text) ||
    /^(begin|commit|rollback|set )/i.test(text)
  )
    return;
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

const counts = { statements: 0, reads: 0, writes: 0, withoutFilter: 0, refused: 0, failed: 0 };

test.each(kinds.map(({ name }) => name))(
  'what is asked for %s shows nothing of another tenant and changes nothing',
  async (name) => {
    await platform.runner.stop(); // Nothing is under way.
    // Nodes that fall silent between the two looks would make a difference of their own.
    await sql`update node_session set heartbeat_at = now() + interval '1 hour'`.execute(platform.db.operator);
    const pair = pairs.find(({ kind }) => kind.name === name)!;
    const variants = variantsOf(pair, asked.values());
    expect(variants.length).toBeGreaterThan(50);
    const reads = variants.filter(({ text }) => !isWrite(text) && !isShared(text));
    const shown = await inLab(platform.connection, async (lab) => {
      await lab.stopForeignWrites(pair.own);
      for (const variant of variants.filter(({ text }) => isWrite(text))) {
        const outcome = await lab.asApp(pair.own, variant);
        counts.writes += 1;
        if (outcome === '42501') counts.refused += 1;
        else if (typeof outcome === 'string') counts.failed += 1;
      }
      const answers: (string[] | string)[] = [];
      for (const variant of reads) answers.push(await lab.asApp(pair.own, variant));
      return answers;
    });
    const alone = await inLab(platform.connection, async (lab) => {
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

test('finds a wall that is not there', async () => {
  const pair = pairs.find(({ kind }) => kind.name === 'network')!;
  const variants = variantsOf(pair, asked.values());
  const reads = variants.filter(({ text }) => !isWrite(text));
  const answersOf = (policy: string) =>
    inLab(platform.connection, async (lab) => {
      if (policy) await lab.query(policy);
      const answers: string[] = [];
      for (const variant of reads) answers.push(JSON.stringify(await lab.asApp(pair.own, variant)));
      return answers;
    });
  const walled = await answersOf('');
  const open = await answersOf('create policy leak on resource for select to rhyzome_app using (true)');
  expect(open.filter((answer, i) => answer !== walled[i]).length).toBeGreaterThan(0);
  const written = inLab(platform.connection, async (lab) => {
    await lab.query('create policy leak on network to rhyzome_app using (true) with check (true)');
    await lab.stopForeignWrites(pair.own);
    for (const variant of variants.filter(({ text }) => isWrite(text))) await lab.asApp(pair.own, variant);
  });
  await expect(written).rejects.toThrow('a row of another tenant in network');
}, 120_000);
