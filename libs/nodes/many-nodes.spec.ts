/** What a replica does for all its nodes at once: heartbeats, looks at what is desired, inventories; each by one statement. */
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { Database } from '#libs/db';
import { wakeLate } from '#libs/jobs';
import { kinds } from '#libs/kinds';
import { askDeed, desire, desireOnAll, type NodeSession, openSession, recordReport } from '#libs/nodes';
import { KindRegistry } from '#libs/resources';
import { type Observed, Phase } from '#libs/rpc';
import { nodeHello, TENANT, type TestDatabase, testDatabase } from '#libs/testing';
import { Heartbeats } from './heartbeats.js';
import { newsOf } from './known-reports.js';
import { QuietReports } from './quiet-reports.js';
import { nodesWithNews } from './registry.js';
import { desiredRows, Unreached } from './unreached.js';

const statements: string[] = [];
const quiet = { info: () => undefined, warn: () => undefined, debug: () => undefined };
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

const session = (name: string) => openSession(db, nodeHello(name, { epoch: 1 }), 'replica:1');

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

/** One network on all nodes, told anew after they had reached it. */
async function toldAnew(): Promise<string> {
  const who = { tenantId: TENANT, id: newId(), kind: 'network' };
  const told = (generation: number) => new Map(sessions.map(({ nodeId }) => [nodeId, { generation, spec: {} }]));
  await db.tenantTransaction(TENANT, (tx) => desireOnAll(tx, who, told(1)));
  await db.tenantTransaction(TENANT, (tx) => desireOnAll(tx, who, told(2)));
  return who.id;
}

/** What the node would say of it. */
async function reachedBy({ nodeId }: NodeSession, id: string, more: Partial<Observed> = {}): Promise<Observed> {
  const { rows } = await sql<{ revision: number }>`
    select revision from placement where resource_id = ${id} and node_id = ${nodeId}`.execute(db.operator);
  return { ...(await observed(id)), revision: BigInt(rows[0]!.revision), ...more };
}

async function unreachedOf(id: string): Promise<number> {
  const { rows } = await sql<{ n: number }>`
    select count(*)::int as n from placement where resource_id = ${id} and observed_revision < revision`.execute(
    db.operator,
  );
  return rows[0]!.n;
}

test('a change is told to all nodes that have something by one statement, and found for all of them by two', async () => {
  const who = { tenantId: TENANT, id: newId(), kind: 'network' };
  const told = new Map(sessions.map(({ nodeId }, n) => [nodeId, { generation: 1, spec: { n } }]));
  const tell = () => db.tenantTransaction(TENANT, (tx) => desireOnAll(tx, who, told));
  await statementsOf(tell);
  expect(statements.filter((text) => text.includes('placement'))).toHaveLength(1);
  const before = await sql`select * from placement where resource_id = ${who.id} order by node_id`.execute(db.operator);
  await tell();
  const after = await sql`select * from placement where resource_id = ${who.id} order by node_id`.execute(db.operator);
  expect(after.rows).toEqual(before.rows);
  const unreached = new Unreached(db, new KindRegistry(kinds), quiet);
  const [found, count] = await statementsOf(() => Promise.all(sessions.map(({ nodeId }) => unreached.of(nodeId))));
  const specs = found.map(({ placements }) => placements.find(({ resource_id }) => resource_id === who.id)?.spec);
  expect(specs).toEqual([{ n: 0 }, { n: 1 }, { n: 2 }]);
  expect(count).toBe(2);
});

test('what cannot be composed is left out and said, and keeps nothing else from being told', async () => {
  const [one] = sessions as [NodeSession];
  const [odd, plain] = [await placed(one), await placed(one)];
  await sql`update placement set spec = '{"composed":"x"}' where resource_id = ${odd.id}`.execute(db.operator);
  const told: object[] = [];
  const failing = {
    ...kinds.find(({ name }) => name === 'network')!,
    compose: () => Promise.reject(new Error('no luck')),
  };
  const log = { warn: (fields: object) => told.push(fields) };
  const rows = await desiredRows({ db, registry: new KindRegistry([failing]), log }, [one.nodeId], {
    onlyUnreached: true,
  });
  const ids = rows.map(({ resource_id }) => resource_id);
  expect(ids).toContain(plain.id);
  expect(ids).not.toContain(odd.id);
  expect(told).toMatchObject([{ id: odd.id, kind: 'network', tenant: TENANT }]);
});

test('reports that no job waits for are written down together', async () => {
  const id = await toldAnew();
  const quiet = new QuietReports(db, new KindRegistry(kinds));
  const reports = await Promise.all(sessions.map((node) => reachedBy(node, id)));
  const [areWritten, count] = await statementsOf(() =>
    Promise.all(sessions.map((node, n) => quiet.record(node, reports[n]!))),
  );
  expect(areWritten).toEqual([true, true, true]);
  // The second looks whether a job began to wait meanwhile.
  expect(count).toBe(2);
  expect(await unreachedOf(id)).toBe(0);
  expect(await quiet.record(sessions[0]!, reports[0]!)).toBe(false);
});

test('a report that somebody waits for, or that may be more than its own row, is judged by itself', async () => {
  const id = await toldAnew();
  const quiet = new QuietReports(db, new KindRegistry(kinds));
  const [one, two, three] = sessions as [NodeSession, NodeSession, NodeSession];
  const word = await reachedBy(one, id);
  // The door of a network's VPN is its peers' news, and what kinds do not say to disregard is theirs.
  expect(await quiet.record(one, { ...word, statusJson: '{"wireguardEndpoint":"192.0.2.1:1"}' })).toBeUndefined();
  expect(await quiet.record(one, { ...word, ref: { tenantId: TENANT, kind: 'instance', id } })).toBeUndefined();
  // Of another node, of an older stream, of what never was told.
  expect(await quiet.record(two, { ...word, revision: 0n })).toBe(false);
  expect(await quiet.record({ ...one, session: one.session - 1 }, word)).toBe(false);
  expect(await quiet.record(one, { ...word, revision: word.revision + 10_000n })).toBe(false);
  const job = { tenant_id: TENANT, id: newId(), kind: 'network', action: 'update', request: '{}', created_by: 'test' };
  const named = { resource_id: id, resource_name: 'n', resource_tags: '{}' };
  await db.operator
    .insertInto('job')
    .values({ ...job, ...named, state: 'queued' })
    .execute();
  expect(await quiet.record(one, word)).toBe(false);
  await sql`update job set resource_id = ${newId()}, waits_for = ${id} where id = ${job.id}`.execute(db.operator);
  expect(await quiet.record(one, word)).toBe(false);
  expect(await unreachedOf(id)).toBe(3);
  await db.operator.deleteFrom('job').where('id', '=', job.id).execute();
  // Who tells all nodes has locked the row: nobody waits for the other.
  await db.operatorTransaction(async (tx) => {
    await sql`select 1 from placement where resource_id = ${id} and node_id = ${three.nodeId} for update`.execute(tx);
    const last = await reachedBy(three, id);
    expect(await Promise.all([quiet.record(one, word), quiet.record(three, last)])).toEqual([true, false]);
  });
});

test('a job that begins to wait while a quiet report is written is woken after it', async () => {
  const id = await toldAnew();
  const job = { tenant_id: TENANT, id: newId(), kind: 'network', action: 'update', request: '{}', created_by: 'test' };
  const named = { resource_id: id, resource_name: 'n', resource_tags: '{}' };
  await db.operator
    .insertInto('job')
    .values({ ...job, ...named, state: 'running' })
    .execute();
  await wakeLate(db, [{ tenantId: TENANT, id }]);
  const { rows } = await sql<{ wakes: number }>`select wakes from job where id = ${job.id}`.execute(db.operator);
  expect(rows[0]!.wakes).toBe(1);
  await db.operator.deleteFrom('job').where('id', '=', job.id).execute();
});
