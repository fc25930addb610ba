/** Fences: the command, its repetition after a crash, what a success makes of the node, and how it comes back. */
import 'reflect-metadata';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import type { Tx } from '#libs/db';
import { kinds } from '#libs/kinds';
import {
  askDueFences,
  askForFence,
  declareGone,
  desire,
  Fencer,
  type FenceSettings,
  fenceByWord,
  heartbeat,
  holdsSession,
  listFences,
  lockForFence,
  openSession,
  placementsOf,
  recordReport,
  runFenceCommand,
  takeBack,
} from '#libs/nodes';
import { KindRegistry } from '#libs/resources';
import { Phase } from '#libs/rpc';
import { nodeHello, type TestDatabase, testDatabase } from '#libs/testing';

const registry = new KindRegistry(kinds);
const silent = { info: () => undefined, warn: () => undefined, error: () => undefined };
const never = new AbortController().signal;
let database: TestDatabase;
let dir: string;
beforeAll(async () => {
  database = await testDatabase();
  await sql`insert into tenant (id, display_name) values ('acme', 'A')`.execute(database.db.operator);
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-fence-'));
});
afterAll(async () => {
  await database?.close();
  await rm(dir, { recursive: true, force: true });
});

const operator = <T>(work: (tx: Tx) => Promise<T>) => database.db.operatorTransaction(work);

function register(name = `n-${newId().slice(-8)}`, epoch = 0) {
  const room = { vcpus: 2, memoryMiB: 1024, diskGiB: 10 };
  return openSession(database.db, nodeHello(name, { kinds: ['network'], epoch, ...room }), 'replica:1');
}

async function nodeOf(id: string) {
  const found = await sql<{ name: string; epoch: number; state: string }>`
    select n.name, n.epoch, node_state(n) as state from node n where id = ${id}`.execute(database.db.operator);
  return found.rows[0]!;
}

/** A node that has been away for so long. */
async function away(minutes = 5) {
  const session = await register();
  await sql`update node set last_seen_at = now() - interval '1 hour' where id = ${session.nodeId}`.execute(
    database.db.operator,
  );
  await sql`update node set told_at = now() - make_interval(mins => ${minutes}) where id = ${session.nodeId}`.execute(
    database.db.operator,
  );
  return session;
}

const ask = (nodeId: string, by = 'admin:root') =>
  operator(async (tx) => askForFence(tx, await lockForFence(tx, nodeId), by));

const fencesOf = (nodeId: string) => operator((tx) => listFences(tx, nodeId));

async function runOnce(settings: FenceSettings): Promise<Fencer> {
  const fencer = new Fencer(database.db, registry, settings, silent);
  await fencer.takeUp();
  await fencer.idle();
  return fencer;
}

const shell = (script: string, timeoutSeconds = 20): FenceSettings => ({
  command: ['/bin/sh', '-c', script, 'fence', '{node}'],
  timeoutSeconds,
});

describe('the command', () => {
  test('gets the node’s name as an argument and no shell; only status 0 in time is a success', async () => {
    const echo = { command: ['/bin/echo', 'off', '{node}', '$HOME;id'], timeoutSeconds: 20 };
    expect(await runFenceCommand(echo, 'node1', never)).toEqual({ succeeded: true, detail: 'off node1 $HOME;id' });
    const failures = [
      [shell('echo no power >&2; exit 3'), 'it ended with status 3. It said: no power'],
      [shell('kill -9 $$'), 'it ended with SIGKILL.'],
      [shell('sleep 60 & sleep 60', 1), 'it took longer than 1 s.'],
      [{ command: ['/nowhere/power-off'], timeoutSeconds: 1 }, 'it cannot be run: spawn /nowhere/power-off ENOENT.'],
    ] as const;
    for (const [settings, detail] of failures)
      expect(await runFenceCommand(settings, 'node1', never)).toEqual({ succeeded: false, detail });
  });

  test('is written down before and after; a failure that an administrator asked for is the end of it', async () => {
    const { nodeId } = await away();
    await ask(nodeId);
    await runOnce(shell('echo the switch is deaf; exit 1'));
    expect(await fencesOf(nodeId)).toMatchObject([
      { state: 'failed', attempts: 1, asked_by: 'admin:root', detail: expect.stringContaining('the switch is deaf') },
    ]);
    expect(await nodeOf(nodeId)).toMatchObject({ epoch: 1, state: 'unreachable' });
  });

  test('is repeated by another after a crash in its middle, and when its server is stopped', async () => {
    const { nodeId } = await away();
    const id = await ask(nodeId);
    const log = join(dir, id);
    // A server that died while the command ran: its lease has run out.
    await sql`update node_fence set state = 'running', attempts = 1, lease_until = now() - interval '1 second'
      where id = ${id}`.execute(database.db.operator);
    const stopped = new Fencer(database.db, registry, shell(`echo begun >> ${log}; sleep 60`), silent);
    await stopped.takeUp();
    await expect.poll(() => readFile(log, 'utf8').catch(() => ''), { timeout: 15_000 }).toBe('begun\n');
    await stopped.stop();
    expect(await fencesOf(nodeId)).toMatchObject([{ state: 'asked', attempts: 2 }]);
    const one = new Fencer(database.db, registry, shell(`echo $1 >> ${log}`), silent);
    const two = new Fencer(database.db, registry, shell(`echo $1 >> ${log}`), silent);
    await Promise.all([one.takeUp(), two.takeUp()]);
    await Promise.all([one.idle(), two.idle()]);
    const { name, ...node } = await nodeOf(nodeId);
    expect(await readFile(log, 'utf8')).toBe(`begun\n${name}\n`);
    expect(node).toEqual({ epoch: 2, state: 'gone' });
    expect(await fencesOf(nodeId)).toMatchObject([{ state: 'succeeded', attempts: 3 }]);
  });

  test('by the clock is run on until it succeeds, with an alarm; not while most nodes are away', async () => {
    const { db } = database;
    await sql`delete from node where node_state(node) <> 'gone'`.execute(db.operator);
    const [{ nodeId }] = [await away(5), await away(1)];
    await askDueFences(db, 60);
    expect(await fencesOf(nodeId)).toEqual([]);
    await register();
    await register();
    await Promise.all([askDueFences(db, 120), askDueFences(db, 120)]);
    const open = await sql<{ node_id: string }>`select node_id from node_fence where finished_at is null`.execute(
      db.operator,
    );
    expect(open.rows).toEqual([{ node_id: nodeId }]);
    await runOnce(shell('exit 1'));
    const alarm = async () =>
      (
        await sql<{ open: boolean }>`select cleared_at is null as open from alarm
          where code = 'fence_failed' and cause = ${nodeId}`.execute(db.operator)
      ).rows;
    expect(await alarm()).toEqual([{ open: true }]);
    expect(await fencesOf(nodeId)).toMatchObject([{ state: 'asked', attempts: 1, asked_by: 'rhyzome' }]);
    await sql`update node_fence set run_at = now() where node_id = ${nodeId}`.execute(db.operator);
    await runOnce(shell('exit 0'));
    expect(await nodeOf(nodeId)).toMatchObject({ state: 'gone' });
    expect(await alarm()).toEqual([{ open: false }]);
  });
});

describe('a fence', () => {
  const who = { tenantId: 'acme', id: newId(), kind: 'network' };

  test('is refused for a node that is heard, unless that is said, and for one that is gone', async () => {
    const { nodeId } = await register();
    const lock = (even = false) => operator((tx) => lockForFence(tx, nodeId, even));
    await expect(lock()).rejects.toMatchObject({
      code: 'conflict',
      message: expect.stringContaining('its machine is on'),
    });
    await operator(async (tx) => fenceByWord(tx, registry, await lockForFence(tx, nodeId, true), 'admin:root'));
    await expect(lock(true)).rejects.toMatchObject({ code: 'conflict' });
    expect(await fencesOf(nodeId)).toMatchObject([{ how: 'word', state: 'succeeded', asked_by: 'admin:root' }]);
  });

  test('takes the node from its agent: what it says counts only when it has stopped, and new machines come only later', async () => {
    const session = await register();
    const { nodeId } = session;
    const { db } = database;
    await db.tenantTransaction('acme', (tx) => desire(tx, who, nodeId, { generation: 1, spec: {} }));
    const report = async (by: typeof session) => {
      const found = await sql<{ revision: number }>`
        select revision from placement where resource_id = ${who.id}`.execute(db.operator);
      return recordReport(db, registry, by, {
        ref: who,
        revision: BigInt(found.rows[0]!.revision),
        generation: 1n,
        phase: Phase.PHASE_READY,
        statusJson: '{}',
        failure: undefined,
        observedAt: new Date(),
      });
    };
    const ready = async () => {
      const [placement] = await db.tenantTransaction('acme', (tx) => placementsOf(tx, who));
      return placement!.isCurrent && placement!.phase === 'ready';
    };
    expect(await report(session)).toBe(true);
    await operator(async (tx) => declareGone(tx, registry, await lockForFence(tx, nodeId, true)));
    expect(await ready()).toBe(false);
    expect(await report(session)).toBe(false);
    expect(await heartbeat(db, session, undefined)).toBe(false);
    expect(await holdsSession(db, session)).toBe(false);

    const { name } = await nodeOf(nodeId);
    const back = await register(name, 1);
    expect(back).toMatchObject({ epoch: 2, isReturning: true });
    expect(await report(back)).toBe(false);
    expect(await heartbeat(db, back, undefined)).toBe(true);
    expect(await nodeOf(nodeId)).toMatchObject({ state: 'gone' });
    expect(await takeBack(db, back, 1)).toBe(false);
    expect(await takeBack(db, back, 2)).toBe(true);
    expect(await report(back)).toBe(true);
    expect(await ready()).toBe(true);
    expect(await nodeOf(nodeId)).toMatchObject({ state: 'cordoned', epoch: 2 });
  });

  test('again, while the node comes back from the first: it has to stop for both', async () => {
    const session = await away();
    const { nodeId } = session;
    await operator(async (tx) => declareGone(tx, registry, await lockForFence(tx, nodeId)));
    const { name } = await nodeOf(nodeId);
    const back = await register(name, 1);
    await sql`update node set epoch = epoch + 1 where id = ${nodeId}`.execute(database.db.operator);
    expect(await takeBack(database.db, back, 2)).toBe(false);
    // Its word was lost with the stream, and it had stopped: its hello says so.
    expect(await register(name, 3)).toMatchObject({ isReturning: false });
    expect(await nodeOf(nodeId)).toMatchObject({ state: 'cordoned' });
  });
});
