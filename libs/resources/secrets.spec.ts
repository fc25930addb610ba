/** What a create tells once: in its own answer, and nowhere else then or later. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import { type Caller, hashRequest, type KindDefinition } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';

const SECRET = 'k3y-that-only-its-maker-hears';
const network = kinds.find(({ name }) => name === 'network')! as KindDefinition;
const secretive: KindDefinition = {
  ...network,
  make: (scope) => Object.assign(network.make(scope), { secrets: () => ({ privateKey: SECRET }) }),
};

let platform: Platform;
beforeAll(async () => {
  platform = await startPlatform({ kinds: kinds.map((kind) => (kind.name === 'network' ? secretive : kind)) });
});
afterAll(() => platform?.close());

/** The tables in whose rows the secret stands. */
async function leaks(): Promise<string[]> {
  const tables = await sql<{
    name: string;
  }>`select tablename as name from pg_tables where schemaname = 'public'`.execute(platform.db.operator);
  const found: string[] = [];
  for (const { name } of tables.rows) {
    const where = sql`select 1 from ${sql.table(name)} t where t::text like ${`%${SECRET}%`} limit 1`;
    const rows = await where.execute(platform.db.operator).catch((error: { code?: string }) => {
      // The operator may not read all; what it may not read, no tenant's answer comes from.
      if (error.code !== '42501') throw error;
      return { rows: [] };
    });
    if (rows.rows.length > 0) found.push(name);
  }
  return found;
}

const create = (caller: Caller, name: string, dryRun = false) =>
  platform.pipeline.create(
    caller,
    secretive,
    { name, subnet: '10.0.0.0/24' },
    {
      dryRun,
      idempotency: { subject: caller.actor.subject, key: name, hash: hashRequest(name) },
    },
  );

test('is in the first answer only, and stored nowhere', async () => {
  const caller = await platform.tenant();
  const first = await create(caller, 'told');
  expect(first.secrets).toEqual({ privateKey: SECRET });
  const again = await create(caller, 'told');
  expect(again.body.id).toBe(first.body.id);
  expect(again.replay).toBeDefined();
  expect(JSON.stringify(again)).not.toContain(SECRET);
  await platform.done(caller, first);
  expect(JSON.stringify((await platform.reader.get(caller, secretive, first.body.id)).body)).not.toContain(SECRET);
  expect(await leaks()).toEqual([]);
});

test('is not told by a dry run, nor by other changes', async () => {
  const caller = await platform.tenant();
  expect(JSON.stringify(await create(caller, 'dry', true))).not.toContain(SECRET);
  const made = await create(caller, 'made');
  await platform.done(caller, made);
  const changed = await platform.pipeline.update(caller, secretive, 'made', { mtu: 1400 });
  expect(JSON.stringify(changed)).not.toContain(SECRET);
});
