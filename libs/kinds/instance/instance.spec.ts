/** Instances on an obedient node: their whole life, their addresses, and what goes wrong. */
import 'reflect-metadata';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import { claimLease, randomMac } from '#libs/kinds/network';
import type { Caller } from '#libs/resources';
import { globalImage, type Platform, startPlatform } from '#libs/testing';

let platform: Platform;

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
});
afterAll(() => platform?.close());

const kind = (name: string) => platform.registry.get(name);

async function network(caller: Caller, name: string, subnet: string): Promise<string> {
  const change = await platform.pipeline.create(caller, kind('network'), { name, subnet });
  await platform.done(caller, change);
  return change.body.id;
}

function machine(name: string, networkName: string, more: object = {}) {
  return { name, image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: networkName }], ...more };
}

async function left(tenantId: string) {
  const count = async (table: string) =>
    (
      await sql<{
        n: number;
      }>`select count(*)::int as n from ${sql.table(table)} where tenant_id = ${tenantId}`.execute(platform.db.operator)
    ).rows[0]!.n;
  const tables = ['resource', 'lease', 'placement', 'reservation', 'dependency', 'deed'];
  return Object.fromEntries(await Promise.all(tables.map(async (table) => [table, await count(table)])));
}

describe('the life of an instance', () => {
  test('runs with the first free address, is stopped, started, rebooted, and leaves nothing', async () => {
    const caller = await platform.tenant();
    await network(caller, 'lan', '10.20.0.0/24');
    const change = await platform.pipeline.create(caller, kind('instance'), machine('web-1', 'lan'));
    expect(change.status).toBe(202);
    expect(change.body.state).toBe('pending');
    await platform.done(caller, change);
    const { body } = await platform.reader.get(caller, kind('instance'), 'web-1');
    expect(body).toMatchObject({
      state: 'ready',
      powerState: 'running',
      node: platform.node.name,
      generation: 1,
      observedGeneration: 1,
    });
    expect(body.interfaces).toMatchObject([{ ip: '10.20.0.2' }]);
    const net = await platform.reader.get(caller, kind('network'), 'lan');
    expect(net.body.addresses).toEqual({ total: 253, used: 1 });

    await platform.done(caller, await platform.pipeline.act(caller, kind('instance'), 'web-1', 'stop', {}));
    expect((await platform.reader.get(caller, kind('instance'), 'web-1')).body).toMatchObject({
      powerState: 'stopped',
      desiredPowerState: 'stopped',
    });
    await platform.done(
      caller,
      await platform.pipeline.update(caller, kind('instance'), 'web-1', { desiredPowerState: 'running' }),
    );
    await platform.done(caller, await platform.pipeline.act(caller, kind('instance'), 'web-1', 'reboot', {}));
    expect(platform.node.deeds).toEqual(['reboot']);

    await expect(platform.pipeline.remove(caller, kind('network'), 'lan')).rejects.toMatchObject({
      code: 'in_use',
      details: { blockers: [{ kind: 'instance', name: 'web-1' }] },
    });
    await platform.done(caller, await platform.pipeline.remove(caller, kind('instance'), 'web-1'));
    await platform.done(caller, await platform.pipeline.remove(caller, kind('network'), 'lan'));
    await platform.node.look();
    expect(await left(caller.actor.tenantId)).toEqual({
      resource: 0,
      lease: 0,
      placement: 0,
      reservation: 0,
      dependency: 0,
      deed: 0,
    });
  });

  test('a node that cannot: the create fails, holds its address, is retried', async () => {
    const caller = await platform.tenant();
    await network(caller, 'lan', '10.20.0.0/29');
    platform.node.refuse = (row) =>
      row.spec?.name === 'bad' ? { code: 'disk_full', message: 'no space left' } : undefined;
    const change = await platform.pipeline.create(caller, kind('instance'), machine('bad', 'lan'));
    const job = await platform.ended(caller, change.jobId!);
    expect(job).toMatchObject({ state: 'failed', error: { code: 'job_failed', reason: 'disk_full' } });
    const { body } = await platform.reader.get(caller, kind('instance'), 'bad');
    expect(body).toMatchObject({ state: 'failed', interfaces: [{ ip: '10.20.0.2' }] });
    await platform.node.look();
    expect(await left(caller.actor.tenantId)).toMatchObject({ lease: 1, placement: 0, reservation: 0 });
    platform.node.refuse = () => undefined;
    await platform.jobs.retry(caller, change.jobId!);
    expect(await platform.ended(caller, change.jobId!)).toMatchObject({ state: 'succeeded', attempts: 2 });
    expect((await platform.reader.get(caller, kind('instance'), 'bad')).body).toMatchObject({
      state: 'ready',
      powerState: 'running',
    });
  });

  test('a create that is cancelled while its node is away disappears', async () => {
    const caller = await platform.tenant();
    await network(caller, 'lan', '10.20.0.0/29');
    platform.node.isAway = true;
    const change = await platform.pipeline.create(caller, kind('instance'), machine('gone', 'lan'));
    await expect.poll(async () => (await platform.jobs.get(caller, change.jobId!)).state).not.toBe('queued');
    await platform.jobs.cancel(caller, change.jobId!);
    platform.node.isAway = false;
    await expect
      .poll(() => platform.node.look().then(() => platform.jobs.get(caller, change.jobId!)), { timeout: 15_000 })
      .toMatchObject({ state: 'cancelled' });
    await expect(platform.reader.get(caller, kind('instance'), 'gone')).rejects.toMatchObject({ code: 'not_found' });
    await platform.node.look();
    expect(await left(caller.actor.tenantId)).toMatchObject({ resource: 1, lease: 0, placement: 0 });
  });

  test('an update holds what it may have to restore: the old name, and room for its leases', async () => {
    const caller = await platform.tenant();
    await network(caller, 'lan', '10.20.0.0/24');
    await platform.done(caller, await platform.pipeline.create(caller, kind('instance'), machine('old', 'lan')));
    platform.node.isAway = true;
    try {
      const rename = await platform.pipeline.update(caller, kind('instance'), 'old', { name: 'new' });
      const widen = await platform.pipeline.update(caller, kind('network'), 'lan', { subnet: '10.20.0.0/23' });
      const create = (name: string, ip?: string) =>
        platform.pipeline.create(
          caller,
          kind('instance'),
          machine(name, 'lan', { interfaces: [{ network: 'lan', ip }] }),
        );
      await expect(create('old')).rejects.toMatchObject({ code: 'name_taken' });
      await expect(create('other', '10.20.1.50')).rejects.toMatchObject({ code: 'busy' });
      await expect(create('other')).rejects.toMatchObject({ code: 'busy' });
      await platform.jobs.cancel(caller, rename.jobId!);
      await platform.jobs.cancel(caller, widen.jobId!);
      for (const { jobId } of [rename, widen]) expect((await platform.ended(caller, jobId!)).state).toBe('cancelled');
    } finally {
      platform.node.isAway = false;
    }
    expect((await platform.reader.get(caller, kind('instance'), 'old')).body.state).toBe('ready');
    expect((await platform.reader.get(caller, kind('network'), 'lan')).body.subnet).toBe('10.20.0.0/24');
    await expect(platform.pipeline.create(caller, kind('instance'), machine('new', 'lan'))).resolves.toBeDefined();
  });

  test('a removal takes the place of a create under way', async () => {
    const caller = await platform.tenant();
    await network(caller, 'lan', '10.20.0.0/29');
    platform.node.isAway = true;
    const create = await platform.pipeline.create(caller, kind('instance'), machine('brief', 'lan'));
    const remove = await platform.pipeline.remove(caller, kind('instance'), 'brief');
    const again = await platform.pipeline.remove(caller, kind('instance'), 'brief');
    expect(again.jobId).toBe(remove.jobId);
    platform.node.isAway = false;
    await platform.done(caller, remove);
    expect((await platform.jobs.get(caller, create.jobId!)).state).toBe('cancelled');
    await platform.node.look();
    expect(await left(caller.actor.tenantId)).toMatchObject({ resource: 1, lease: 0, placement: 0, reservation: 0 });
  });

  test('a guest that shuts itself down stays stopped, or is started again', async () => {
    const caller = await platform.tenant();
    await network(caller, 'lan', '10.20.0.0/24');
    for (const restartPolicy of ['stay', 'always']) {
      const change = await platform.pipeline.create(
        caller,
        kind('instance'),
        machine(restartPolicy, 'lan', { restartPolicy }),
      );
      await platform.done(caller, change);
      await platform.node.guestIs(change.body.id, 'stopped');
      await platform.node.look();
      const wanted = restartPolicy === 'stay' ? 'stopped' : 'running';
      await expect
        .poll(async () => (await platform.reader.get(caller, kind('instance'), restartPolicy)).body)
        .toMatchObject({ desiredPowerState: wanted, powerState: wanted });
    }
  });

  test('a guest that shuts itself down while a job is under way obeys its policy when the job ends', async () => {
    const caller = await platform.tenant();
    await network(caller, 'lan', '10.20.0.0/24');
    for (const restartPolicy of ['stay', 'always']) {
      const body = machine(restartPolicy, 'lan', { restartPolicy });
      const change = await platform.pipeline.create(caller, kind('instance'), body);
      await platform.done(caller, change);
      platform.node.isAway = true;
      const reboot = await platform.pipeline.act(caller, kind('instance'), restartPolicy, 'reboot', {});
      await platform.node.guestIs(change.body.id, 'stopped');
      platform.node.isAway = false;
      await platform.done(caller, reboot);
      const wanted = restartPolicy === 'stay' ? 'stopped' : 'running';
      await expect
        .poll(async () => (await platform.reader.get(caller, kind('instance'), restartPolicy)).body)
        .toMatchObject({ state: 'ready', desiredPowerState: wanted, powerState: wanted });
    }
  });
});

test('what a node says of a machine as it was told before does not count', async () => {
  const caller = await platform.tenant();
  await network(caller, 'lan', '10.25.0.0/24');
  await platform.done(caller, await platform.pipeline.create(caller, kind('instance'), machine('m', 'lan')));
  const { body } = await platform.reader.get(caller, kind('instance'), 'm');
  const powerState = async () => (await platform.reader.get(caller, kind('instance'), 'm')).body.powerState;
  platform.node.isStillAt = ({ resource_id }) => resource_id === body.id;
  const stop = await platform.pipeline.update(caller, kind('instance'), 'm', { desiredPowerState: 'stopped' });
  const told = () =>
    sql`select from placement where resource_id = ${body.id} and observed_revision < revision`.execute(
      platform.db.operator,
    );
  await expect.poll(async () => (await told()).rows.length).toBe(1);
  await platform.node.guestIs(body.id, 'paused');
  expect(await powerState()).toBe('running');
  platform.node.isStillAt = () => false;
  await platform.node.look();
  await platform.done(caller, stop);
  expect(await powerState()).toBe('stopped');
  await platform.node.guestIs(body.id, 'paused');
  expect(await powerState()).toBe('paused');
});

test('a network whose create is not done cannot be cancelled away under an instance', async () => {
  const idle = await startPlatform({ kinds, workers: false });
  try {
    await globalImage(idle);
    const caller = await idle.tenant();
    const made = await idle.pipeline.create(caller, kind('network'), { name: 'lan', subnet: '10.20.0.0/24' });
    const user = await idle.pipeline.create(caller, kind('instance'), machine('user', 'lan'));
    const blockers = [{ kind: 'instance', name: 'user' }];
    await expect(idle.jobs.cancel(caller, made.jobId!)).rejects.toMatchObject({
      code: 'in_use',
      details: { blockers },
    });
    await idle.jobs.cancel(caller, user.jobId!);
    const other = await idle.pipeline.create(caller, kind('network'), { name: 'other', subnet: '10.21.0.0/24' });
    await idle.jobs.cancel(caller, other.jobId!);
    const late = idle.pipeline.create(caller, kind('instance'), machine('late', 'other'));
    await expect(late).rejects.toMatchObject({ code: 'invalid' });
  } finally {
    await idle.close();
  }
});

describe('addresses', () => {
  test('200 creates at once for the last 10: 10 succeed, 190 are told that none is free', async () => {
    const caller = await platform.tenant();
    // 13 machine addresses of a /28, three of which are kept for others.
    await network(caller, 'small', '10.30.0.0/28');
    const { id } = (await platform.reader.get(caller, kind('network'), 'small')).body;
    await platform.db.tenantTransaction(caller.actor.tenantId, async (tx) => {
      for (const ip of ['10.30.0.3', '10.30.0.9', '10.30.0.14']) {
        const taken = { tenantId: caller.actor.tenantId, networkId: id, ip, mac: randomMac(), hostname: null };
        await claimLease(tx, { ...taken, pointer: '/ip' });
      }
    });
    const outcomes = await Promise.allSettled(
      Array.from({ length: 200 }, (_, i) =>
        platform.pipeline.create(caller, kind('instance'), machine(`m-${i}`, 'small')),
      ),
    );
    const failed = outcomes.filter((outcome) => outcome.status === 'rejected');
    expect(failed).toHaveLength(190);
    for (const { reason } of failed) expect(reason).toMatchObject({ code: 'no_free_address' });
    const leases = await sql<{ ip: string }>`
      select host(ip) as ip from lease where tenant_id = ${caller.actor.tenantId} and automatic
      order by lease.ip`.execute(platform.db.operator);
    const free = [2, 4, 5, 6, 7, 8, 10, 11, 12, 13].map((host) => `10.30.0.${host}`);
    expect(leases.rows.map(({ ip }) => ip)).toEqual(free);
  }, 60_000);

  test('are given once, whoever asks for them and however many at once', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.option(fc.integer({ min: 0, max: 7 }), { nil: undefined }), { minLength: 1, maxLength: 14 }),
        async (asked) => {
          const caller = await platform.tenant();
          await network(caller, 'small', '10.31.0.0/29');
          const outcomes = await Promise.allSettled(
            asked.map((host, i) => {
              const body = machine(`m-${i}`, 'small');
              const interfaces = [{ network: 'small', ...(host !== undefined && { ip: `10.31.0.${host}` }) }];
              return platform.pipeline.create(caller, kind('instance'), { ...body, interfaces });
            }),
          );
          const made = outcomes.filter((outcome) => outcome.status === 'fulfilled');
          const addresses = made.map(({ value }) => (value.body.interfaces as { ip: string }[])[0]!.ip);
          expect(new Set(addresses).size).toBe(addresses.length);
          // 2 to 6 are for machines: all of them are given as long as enough ask who take any.
          const anywhere = asked.filter((host) => host === undefined).length;
          expect(addresses.length).toBeLessThanOrEqual(5);
          expect(addresses.length).toBeGreaterThanOrEqual(Math.min(5, anywhere));
          for (const outcome of outcomes) {
            if (outcome.status === 'rejected') {
              expect(outcome.reason.code).toMatch(/^(no_free_address|address_in_use|invalid)$/);
            }
          }
        },
      ),
      { numRuns: 12 },
    );
  }, 60_000);
});
