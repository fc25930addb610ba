/** What a replica does for all its nodes at once: heartbeats, looks at what is desired, inventories; each by one statement. */
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { Database } from '#libs/db';
import { kinds } from '#libs/kinds';
import { askDeed, desire, type NodeSession, openSession, recordReport } from '#libs/nodes';
import { KindRegistry } from '#libs/resources';
import { type Observed, Phase } from '#libs/rpc';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { Heartbeats } from './heartbeats.js';
import { newsOf } from './known-reports.js';
import { nodesWithNews } from './registry.js';

const TENANT = 'acme';
const statements: string[] = [];
let database: TestDatabase;
let db: Database;
let sessions: NodeSession[];

beforeAll(async () => {
  database = await testDatabase();
  db = new Database({ app: database.connection, onQuery: (text) => statements.push(text) });
  await sql`insert into tenant (id, display_name) values (${TENANT}, 'A')`.execute(db.operator);
  sessions = [];
  for (const name of ['n1', 'n2', 'n3']) sessions.push(await session(name));
});
afterAll(async () => {
  await db?.close();
  await database?.close();
});

function session(name: string): Promise<NodeSession> {
  const [driver, agentVersion, kinds, labels] = ['test', '0', ['network'], {}];
  const hello = { name, driver, agentVersion, kinds, labels, vcpus: 2, memoryMiB: 1024, diskGiB: 10, epoch: 1 };
  return openSession(db, hello, 'replica:1');
}

/** How many statements it took. */
async function statementsOf<T>(work: () => Promise<T>): Promise<[T, number]> {
  statements.length = 0;
  const result = await work();
  return [result, statements.length];
}

async function placed(node: NodeSession): Promise<{ tenantId: string; id: string; kind: string }> {
  const who = { tenantId: TENANT, id: newId(), kind: 'network' };
  await db.tenantTransaction(TENANT, (tx) => desire(tx, who, node.nodeId, { generation: 1, spec: {} }));
  return who;
}

async function observed(id: string, more: Partial<Observed> = {}): Promise<Observed> {
  const found = await sql<{ revision: number }>`select revision from placement where resource_id = ${id}`.execute(
    db.operator,
  );
  return {
    ref: { tenantId: TENANT, kind: 'network', id },
    revision: BigInt(found.rows[0]?.revision ?? 1),
    generation: 1n,
    phase: Phase.PHASE_READY,
    statusJson: '{"a":1}',
    failure: undefined,
    observedAt: new Date(),
    ...more,
  };
}

test('heartbeats are written down together, and each hears whether its stream still counts', async () => {
  const later = await session('n2');
  const beats = new Heartbeats(db);
  const capacity = { vcpus: 7, memoryMiB: 7, diskGiB: 7 };
  const all = [...sessions, later];
  await sql`update node set last_seen_at = now() - interval '1 hour'`.execute(db.operator);
  const [answers, count] = await statementsOf(() =>
    Promise.all(all.map((one, n) => beats.record({ session: one, capacity: n === 0 ? capacity : undefined }))),
  );
  expect(answers).toEqual([true, false, true, true]);
  expect(count).toBe(1);
  const rows = await sql<{ name: string; vcpus: number; seen: boolean }>`
    select name, vcpus, last_seen_at > now() - interval '1 minute' as seen from node order by name`.execute(
    db.operator,
  );
  expect(rows.rows).toEqual([
    { name: 'n1', vcpus: 7, seen: true },
    { name: 'n2', vcpus: 2, seen: true },
    { name: 'n3', vcpus: 2, seen: true },
  ]);
  sessions[1] = later;
});

test('of all nodes those are found that have something to do', async () => {
  const [one, two, three] = sessions as [NodeSession, NodeSession, NodeSession];
  const ids = sessions.map(({ nodeId }) => nodeId);
  expect(await nodesWithNews(db, ids)).toEqual([]);
  const who = await placed(two);
  expect(await nodesWithNews(db, ids)).toEqual([two.nodeId]);
  expect(await nodesWithNews(db, [one.nodeId])).toEqual([]);
  await recordReport(db, new KindRegistry(kinds), two, await observed(who.id));
  expect(await nodesWithNews(db, ids)).toEqual([]);
  await db.tenantTransaction(TENANT, (tx) =>
    askDeed(tx, who as never, { id: newId(), nodeId: three.nodeId, verb: 'reboot', repeatable: true }),
  );
  expect(await nodesWithNews(db, ids)).toEqual([three.nodeId]);
});

test('of an inventory only what the rows do not say is news', async () => {
  const [one, two] = sessions as [NodeSession, NodeSession];
  const [known, changed, fresh, failed, elsewhere] = await Promise.all([one, one, one, one, two].map(placed));
  const registry = new KindRegistry(kinds);
  const failure = { code: 'no_luck', message: 'It did not work.' };
  await recordReport(db, registry, one, await observed(known!.id));
  await recordReport(db, registry, one, await observed(changed!.id));
  await recordReport(db, registry, one, await observed(failed!.id, { phase: Phase.PHASE_FAILED, failure }));
  const inventory = [
    await observed(known!.id),
    await observed(fresh!.id),
    await observed(changed!.id, { statusJson: '{"a":2}' }),
    await observed(failed!.id, { phase: Phase.PHASE_FAILED, failure }),
    await observed(elsewhere!.id),
    await observed(newId()),
    await observed(known!.id, { revision: 0n, phase: Phase.PHASE_UNSPECIFIED }),
  ];
  const [news, count] = await statementsOf(() => newsOf(db, one, inventory));
  expect(news.map(({ ref }) => ref!.id)).toEqual([fresh!.id, changed!.id]);
  expect(count).toBe(1);
});
