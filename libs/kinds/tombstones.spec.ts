/** Removals on a node that is away: they end, names are free at once, and addresses when nobody can use them any more. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import { declareGone, entombNow, lockForFence, NodeWatch, wakeJobsOfNode } from '#libs/nodes';
import type { Caller, ChangeResult } from '#libs/resources';
import { globalImage, ObedientNode, type Platform, publicPool, startPlatform } from '#libs/testing';

const soon = { timeout: 20_000 };
let platform: Platform;
let caller: Caller;
/** Where what is made while the first one is away goes. */
let other: ObedientNode;
let watch: NodeWatch;
beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
  await publicPool(platform, 'edge', '203.0.113.1', '203.0.113.2');
  await sql`update installation set deleted_disks_kept = null`.execute(platform.db.operator);
  other = new ObedientNode(platform.db, platform.listener, platform.registry);
  await other.register();
  watch = new NodeWatch(platform.db, { log: { warn: (fields) => expect.fail(JSON.stringify(fields)) } });
});
afterAll(async () => {
  await other?.close();
  await platform?.close();
});
beforeEach(async () => {
  await set(other.id, sql`cordoned = true`);
  caller = await platform.tenant();
  await make('network', { name: 'lan', subnet: '10.90.0.0/29' });
});
afterEach(async () => {
  platform.node.isAway = false;
  await platform.node.register();
  await set(platform.node.id, sql`cordoned = false`);
});

const set = (nodeId: string, values: ReturnType<typeof sql>) =>
  sql`update node set ${values} where id = ${nodeId}`.execute(platform.db.operator);

async function make(kind: string, body: object): Promise<ChangeResult> {
  const change = await platform.pipeline.create(caller, platform.registry.get(kind), body);
  await platform.done(caller, change);
  return change;
}

const remove = (kind: string, id: string) => platform.pipeline.remove(caller, platform.registry.get(kind), id);

const machine = (name: string, ip?: string) => ({
  name,
  image: 'tiny',
  vcpus: 1,
  memoryMiB: 128,
  interfaces: [{ network: 'lan', ...(ip && { ip }) }],
});

async function goesAway(): Promise<void> {
  platform.node.isAway = true;
  await sql`update node_session set replica = null where node_id = ${platform.node.id}`.execute(platform.db.operator);
  await set(platform.node.id, sql`last_seen_at = now() - interval '5 minutes'`);
  await set(other.id, sql`cordoned = false`);
}

/** As if it had been away for as long as removals wait. */
async function staysAway(): Promise<void> {
  await set(platform.node.id, sql`told_at = now() - interval '11 minutes'`);
  await wakeJobsOfNode(platform.db, platform.node.id);
}

async function fence(): Promise<void> {
  await platform.db.operatorTransaction(async (tx) =>
    declareGone(tx, platform.registry, await lockForFence(tx, platform.node.id)),
  );
  await wakeJobsOfNode(platform.db, platform.node.id);
}

/** Until the job waits for the node. */
async function waits(change: ChangeResult): Promise<void> {
  await expect.poll(async () => (await platform.jobs.get(caller, change.jobId!)).state, soon).toBe('waiting');
}

async function left() {
  const count = async (table: string) =>
    (
      await sql<{ n: number }>`select count(*)::int as n from ${sql.table(table)} where node_id = ${platform.node.id}
        and tenant_id = ${caller.actor.tenantId}`.execute(platform.db.operator)
    ).rows[0]!.n;
  return { placed: await count('placement'), reserved: await count('reservation'), held: await count('held_address') };
}

describe('a machine that is deleted on a node that is away', () => {
  test('is gone at the deadline; its address is held, until the node is fenced', async () => {
    const made = await make('instance', machine('web', '10.90.0.2'));
    await goesAway();
    const removal = await remove('instance', made.body.id);
    await waits(removal);
    await staysAway();
    await platform.done(caller, removal);
    expect(await left()).toEqual({ placed: 3, reserved: 2, held: 1 });
    await expect(make('instance', machine('web', '10.90.0.2'))).rejects.toMatchObject({
      code: 'address_in_use',
      message: expect.stringContaining(`node ${platform.node.name}, which is away`),
    });
    const second = await make('instance', machine('web'));
    const ip = async (id: string) =>
      ((await platform.reader.get(caller, platform.registry.get('instance'), id)).body as any).interfaces[0].ip;
    expect(await ip(second.body.id)).toBe('10.90.0.3');
    await fence();
    expect((await left()).held).toBe(0);
    const third = await make('instance', machine('again', '10.90.0.2'));
    expect(await ip(third.body.id)).toBe('10.90.0.2');
    platform.node.isAway = false;
    await platform.node.register();
    await platform.node.look();
    expect(await left()).toEqual({ placed: 0, reserved: 0, held: 0 });
    expect(platform.node.machine.has(made.body.id)).toBe(false);
  });

  test('or until the node is back and has removed it; a full network says that addresses are held', async () => {
    const names = ['a', 'b', 'c', 'd'];
    const made = await Promise.all(names.map((name) => make('instance', machine(name))));
    await make('instance', machine('e'));
    await goesAway();
    const removals = await Promise.all(made.map(({ body }) => remove('instance', body.id)));
    await staysAway();
    for (const removal of removals) await platform.done(caller, removal);
    expect((await left()).held).toBe(4);
    await expect(make('instance', machine('f'))).rejects.toMatchObject({
      code: 'no_free_address',
      message: expect.stringContaining('4 of them are held'),
    });
    platform.node.isAway = false;
    await platform.node.register();
    await expect.poll(async () => (await left()).held, soon).toBe(0);
    await Promise.all(names.map((name) => make('instance', machine(name))));
  });

  test('is gone at once behind a fence, or by an administrator’s word, which counts for the tenant’s other removals there', async () => {
    const made = await Promise.all(['a', 'b', 'c'].map((name) => make('instance', machine(name))));
    await goesAway();
    const first = await remove('instance', made[0]!.body.id);
    await waits(first);
    const { tenantId } = caller.actor;
    await platform.db.operatorTransaction((tx) => entombNow(tx, tenantId, [made[0]!.body.id]));
    await wakeJobsOfNode(platform.db, platform.node.id);
    await platform.done(caller, first);
    await platform.done(caller, await remove('instance', made[1]!.body.id));
    expect((await left()).held).toBe(2);
    await fence();
    await platform.done(caller, await remove('instance', made[2]!.body.id));
    expect((await left()).held).toBe(0);
    await expect(
      platform.db.operatorTransaction((tx) => entombNow(tx, tenantId, [made[0]!.body.id])),
    ).rejects.toMatchObject({ code: 'conflict' });
  });

  test('takes along networks, which can be made anew with their names and subnets', async () => {
    const made = await make('instance', machine('web'));
    await goesAway();
    const removal = await remove('instance', made.body.id);
    await waits(removal);
    await staysAway();
    await platform.done(caller, removal);
    const network = (await platform.reader.get(caller, platform.registry.get('network'), 'lan')).body.id;
    await platform.done(caller, await remove('network', network));
    await make('network', { name: 'lan', subnet: '10.90.0.0/29' });
    await make('instance', machine('web', '10.90.0.2'));
    platform.node.isAway = false;
    await platform.node.register();
    await expect.poll(left, soon).toEqual({ placed: 0, reserved: 0, held: 0 });
  });
});

describe('a public address', () => {
  test('that a node which is away may still answer for is nobody’s until the node has heard', async () => {
    const vm = await make('instance', machine('web'));
    const made = await make('publicaddress', { name: 'edge', instance: vm.body.id });
    await make('publicaddress', { name: 'spare' });
    await goesAway();
    const removal = await remove('publicaddress', made.body.id);
    await waits(removal);
    await staysAway();
    await platform.done(caller, removal);
    expect((await left()).held).toBe(1);
    await expect(make('publicaddress', { name: 'next' })).rejects.toMatchObject({ code: 'no_free_address' });
    platform.node.isAway = false;
    await platform.node.register();
    await expect.poll(async () => (await left()).held, soon).toBe(0);
    await make('publicaddress', { name: 'next' });
  });
});

describe('a machine on a node that is gone', () => {
  test('is not ready for anybody, and says so until the node is back', async () => {
    const made = await make('instance', machine('web'));
    const alarms = async () =>
      (
        await sql<{ code: string; open: boolean }>`select code, cleared_at is null as open from alarm
          where resource_id = ${made.body.id} order by raised_at`.execute(platform.db.operator)
      ).rows;
    await goesAway();
    await fence();
    await watch.round();
    expect(await alarms()).toEqual([{ code: 'node_gone', open: true }]);
    const shown = (await platform.reader.get(caller, platform.registry.get('instance'), made.body.id)).body as any;
    expect(shown.conditions).toContainEqual(expect.objectContaining({ type: 'Alarm', reason: 'node_gone' }));
    const instance = platform.registry.get('instance');
    const update = await platform.pipeline.update(caller, instance, made.body.id, { tags: { a: 'b' } });
    expect(await platform.ended(caller, update.jobId!)).toMatchObject({
      state: 'failed',
      error: { code: 'job_failed', reason: 'node_gone' },
    });
    platform.node.isAway = false;
    await platform.node.register();
    await platform.node.look();
    await watch.round();
    expect(await alarms()).toEqual([{ code: 'node_gone', open: false }]);
    await platform.done(caller, await platform.pipeline.update(caller, instance, made.body.id, { tags: { a: 'b' } }));
  });

  test('that was being made is undone, and made elsewhere when that is retried', async () => {
    platform.node.isAway = true;
    const instance = platform.registry.get('instance');
    const change = await platform.pipeline.create(caller, instance, machine('new'));
    await expect.poll(async () => (await platform.jobs.get(caller, change.jobId!)).progress, soon).toBeGreaterThan(0);
    await goesAway();
    await fence();
    expect(await platform.ended(caller, change.jobId!)).toMatchObject({
      state: 'failed',
      error: { reason: 'node_gone' },
    });
    const again = await platform.jobs.retry(caller, change.jobId!);
    expect(await platform.ended(caller, again.body.id)).toMatchObject({ state: 'succeeded' });
    expect(other.machine.has(change.body.id)).toBe(true);
  });
});
