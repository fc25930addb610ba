/** What nodes may say and what is made of it: placements, reports, deeds and sessions on a real database. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId, Waiting } from '#libs/core';
import { kinds } from '#libs/kinds';
import {
  closeSession,
  desire,
  heartbeat,
  type NodeSession,
  openSession,
  placementsOf,
  probeAbsent,
  probeReady,
  recordReport,
  withdraw,
} from '#libs/nodes';
import { KindRegistry } from '#libs/resources';
import { type Observed, Phase } from '#libs/rpc';
import { nodeHello, TENANT, type TestDatabase, type TwoNodes, twoNodes } from '#libs/testing';
import { NodeStream } from './stream.js';
import { Together } from './together.js';

const registry = new KindRegistry(kinds);
let database: TestDatabase;
let node: NodeSession;
let otherNode: NodeSession;
let inTenant: TwoNodes['inTenant'];

beforeAll(async () => {
  ({ database, node, otherNode, inTenant } = await twoNodes());
});
afterAll(() => database?.close());

async function placed(spec: object = { a: 1 }): Promise<{ tenantId: string; id: string; kind: string }> {
  const who = { tenantId: TENANT, id: newId(), kind: 'network' };
  await inTenant((tx) => desire(tx, who, node.nodeId, { generation: 1, spec }));
  return who;
}

async function revisionOf(id: string): Promise<bigint> {
  const found = await sql<{ revision: number }>`select revision from placement where resource_id = ${id}`.execute(
    database.db.operator,
  );
  return BigInt(found.rows[0]!.revision);
}

function report(id: string, revision: bigint, phase: Phase, more: Partial<Observed> = {}, by = node): Promise<boolean> {
  return recordReport(database.db, registry, by, {
    ref: { tenantId: TENANT, kind: 'network', id },
    revision,
    generation: 1n,
    phase,
    statusJson: '{}',
    failure: undefined,
    observedAt: new Date(),
    ...more,
  });
}

describe('desired state', () => {
  test('rises only with a change of what is desired', async () => {
    const who = await placed();
    const first = await revisionOf(who.id);
    await inTenant((tx) => desire(tx, who, node.nodeId, { generation: 1, spec: { a: 1 } }));
    expect(await revisionOf(who.id)).toBe(first);
    const changes = [
      { generation: 1, spec: { a: 2 } },
      { generation: 2, spec: { a: 2 } },
      { generation: 2, spec: { a: 2 }, again: true },
    ];
    let last = first;
    for (const change of changes) {
      await inTenant((tx) => desire(tx, who, node.nodeId, change));
      expect(await revisionOf(who.id)).toBeGreaterThan(last);
      last = await revisionOf(who.id);
    }
    await inTenant((tx) => withdraw(tx, who));
    const withdrawn = await revisionOf(who.id);
    expect(withdrawn).toBeGreaterThan(last);
    await inTenant((tx) => withdraw(tx, who));
    expect(await revisionOf(who.id)).toBe(withdrawn);
  });
});

describe('reports', () => {
  test('of what is desired now end the waiting; its removal takes the placement away', async () => {
    const who = await placed();
    expect(await inTenant((tx) => probeReady(tx, who))).toMatchObject({
      outside: false,
      message: 'Node n1 is at work.',
    });
    expect(await report(who.id, await revisionOf(who.id), Phase.PHASE_READY, { statusJson: '{"x":1}' })).toBe(true);
    expect(await inTenant((tx) => probeReady(tx, who))).toMatchObject([{ nodeName: 'n1', status: { x: 1 } }]);
    await inTenant((tx) => withdraw(tx, who));
    expect(await inTenant((tx) => probeAbsent(tx, who))).toBeInstanceOf(Waiting);
    await report(who.id, await revisionOf(who.id), Phase.PHASE_ABSENT);
    expect(await inTenant((tx) => probeAbsent(tx, who))).toBe(true);
    expect(await inTenant((tx) => placementsOf(tx, who))).toEqual([]);
  });

  test('that are older, from the future, of another node, tenant or shape count for nothing', async () => {
    const who = await placed();
    const old = await revisionOf(who.id);
    await inTenant((tx) => desire(tx, who, node.nodeId, { generation: 2, spec: { a: 2 } }));
    const now = await revisionOf(who.id);
    await report(who.id, now, Phase.PHASE_PROGRESSING);
    const before = await inTenant((tx) => placementsOf(tx, who));
    const ref = { tenantId: TENANT, kind: 'network', id: who.id };
    const refused = [
      report(who.id, old, Phase.PHASE_READY),
      report(who.id, now + 1n, Phase.PHASE_READY),
      report(who.id, now, Phase.PHASE_READY, {}, otherNode),
      report(who.id, now, Phase.PHASE_READY, { ref: { ...ref, tenantId: 'globex' } }),
      report(who.id, now, Phase.PHASE_READY, { ref: { ...ref, tenantId: "x'; drop table job" } }),
      report(who.id, now, Phase.PHASE_READY, { ref: { ...ref, id: 'no-uuid' } }),
      report(who.id, now, Phase.PHASE_READY, { ref: undefined }),
      report(who.id, now, Phase.PHASE_UNSPECIFIED),
      report(newId(), now, Phase.PHASE_READY),
    ];
    expect(await Promise.all(refused)).toEqual(refused.map(() => false));
    expect(await inTenant((tx) => placementsOf(tx, who))).toEqual(before);
  });

  test('of a stream that was taken over count no more', async () => {
    const name = `n-${newId().slice(-8)}`;
    const first = await openSession(database.db, nodeHello(name), 'replica:1');
    const who = { tenantId: TENANT, id: newId(), kind: 'network' };
    await inTenant((tx) => desire(tx, who, first.nodeId, { generation: 1, spec: {} }));
    const revision = await revisionOf(who.id);
    const second = await openSession(database.db, nodeHello(name), 'replica:2');
    expect(await report(who.id, revision, Phase.PHASE_FAILED, {}, first)).toBe(false);
    expect(await report(who.id, revision, Phase.PHASE_READY, {}, second)).toBe(true);
    expect(await report(who.id, revision, Phase.PHASE_FAILED, {}, first)).toBe(false);
    expect(await inTenant((tx) => placementsOf(tx, who))).toMatchObject([{ phase: 'ready' }]);
  });

  test.each<[string, Partial<Observed>]>([
    ['NUL in a status', { statusJson: '{"a":"\\u0000"}' }],
    ['NUL in a status’ key', { statusJson: '{"a":[{"\\u0000":1}]}' }],
    ['half a character in a status', { statusJson: '{"a":"\\ud800"}' }],
    ['endless nesting', { statusJson: `{"a":${'['.repeat(500)}${']'.repeat(500)}}` }],
    ['NUL in a failure', { failure: { code: 'x', message: 'a\0b' } }],
    ['a revision beyond all numbers', { revision: 2n ** 63n }],
    ['a generation beyond all numbers', { generation: 2n ** 64n - 1n }],
  ])('that cannot be stored are the node’s fault: %s', async (_, more) => {
    const who = await placed();
    await expect(report(who.id, await revisionOf(who.id), Phase.PHASE_READY, more)).rejects.toMatchObject({
      code: 'malformed_request',
    });
  });

  test('that say the same again change nothing', async () => {
    const who = await placed();
    const revision = await revisionOf(who.id);
    expect(await report(who.id, revision, Phase.PHASE_READY)).toBe(true);
    expect(await report(who.id, revision, Phase.PHASE_READY)).toBe(false);
  });

  test('of a failure fail the job that waits, with the node’s reason, until something else is desired', async () => {
    const who = await placed();
    const failure = { code: 'disk_full', message: 'no space left' };
    await report(who.id, await revisionOf(who.id), Phase.PHASE_PROGRESSING, { failure });
    expect(await inTenant((tx) => probeReady(tx, who))).toMatchObject({
      message: expect.stringContaining('tries again'),
    });
    await report(who.id, await revisionOf(who.id), Phase.PHASE_FAILED, { failure });
    await expect(inTenant((tx) => probeReady(tx, who))).rejects.toMatchObject({
      code: 'job_failed',
      details: { extensions: { reason: 'disk_full', node: 'n1' } },
    });
    await inTenant((tx) => desire(tx, who, node.nodeId, { generation: 2, spec: { a: 2 } }));
    expect(await inTenant((tx) => probeReady(tx, who))).toBeInstanceOf(Waiting);
  });

  test('with a status that is no JSON object, or endless, say nothing but their phase', async () => {
    for (const statusJson of ['', 'nonsense', '[1]', '7', `{"x":"${'y'.repeat(20_000)}"}`]) {
      const who = await placed();
      expect(await report(who.id, await revisionOf(who.id), Phase.PHASE_READY, { statusJson })).toBe(true);
      expect(await inTenant((tx) => probeReady(tx, who))).toMatchObject([{ phase: 'ready', status: null }]);
    }
  });

  test('of a node that is away are waited for as something outside', async () => {
    const session = await openSession(database.db, nodeHello('n3'), 'replica:1');
    const who = { tenantId: TENANT, id: newId(), kind: 'network' };
    await inTenant((tx) => desire(tx, who, session.nodeId, { generation: 1, spec: {} }));
    await closeSession(database.db, session);
    expect(await inTenant((tx) => probeReady(tx, who))).toMatchObject({
      outside: true,
      message: expect.stringContaining('n3 is away'),
    });
  });
});

describe('sessions', () => {
  test('only the last stream of a node counts', async () => {
    const first = await openSession(database.db, nodeHello('n4'), 'replica:1');
    const second = await openSession(database.db, nodeHello('n4'), 'replica:2');
    expect(second.nodeId).toBe(first.nodeId);
    expect(second.session).toBeGreaterThan(first.session);
    const capacity = { vcpus: 9, memoryMiB: 9, diskGiB: 9 };
    expect(await heartbeat(database.db, first, capacity)).toBe(false);
    expect(await heartbeat(database.db, second, capacity)).toBe(true);
    await closeSession(database.db, first);
    const found = await sql<{ replica: string | null; vcpus: number }>`
      select replica, vcpus from node_session join node on id = node_id where node_id = ${first.nodeId}`.execute(
      database.db.operator,
    );
    expect(found.rows).toEqual([{ replica: 'replica:2', vcpus: 9 }]);
  });
});

test('what is desired goes out in messages that are never too large together', async () => {
  const name = `n-${newId().slice(-8)}`;
  const session = await openSession(database.db, nodeHello(name), 'replica:1');
  const ids = Array.from({ length: 12 }, () => newId());
  await inTenant(async (tx) => {
    for (const id of ids) {
      const who = { tenantId: TENANT, id, kind: 'network' };
      await desire(tx, who, session.nodeId, { generation: 1, spec: { text: 'x'.repeat(200_000) } });
    }
  });
  const messages: { body: { value: { items: { ref: { id: string }; specJson: string }[]; snapshotEnd: boolean } } }[] =
    [];
  const call = {
    write: (message: (typeof messages)[number]) => messages.push(message) > 0,
    iterator: async function* () {},
    end: () => undefined,
  };
  const log = { info: () => undefined, warn: () => undefined, debug: () => undefined };
  const { signal } = new AbortController();
  const together = new Together(database.db, registry, log);
  const stream = new NodeStream(database.db, registry, together, session, name, call as never, signal, log);
  await stream.run({ inventory: [] } as never);
  const sizes = messages.map(({ body }) => body.value.items.reduce((sum, { specJson }) => sum + specJson.length, 0));
  expect(Math.max(...sizes)).toBeLessThan(1_000_000);
  expect(messages.flatMap(({ body }) => body.value.items.map(({ ref }) => ref.id)).sort()).toEqual([...ids].sort());
  expect(messages.map(({ body }) => body.value.snapshotEnd).lastIndexOf(true)).toBe(messages.length - 1);
  expect(messages.filter(({ body }) => body.value.snapshotEnd)).toHaveLength(1);
});
