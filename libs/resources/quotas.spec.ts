/** Quotas under everything that can happen to a create: exactly as many as fit, and the books are right afterwards. */
import 'reflect-metadata';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId, RhyzomeError } from '#libs/core';
import { kinds } from '#libs/kinds';
import { type Caller, type ChangeResult } from '#libs/resources';
import { setQuotas, unsetQuotas } from '#libs/tenants';
import { globalImage, type Platform, startPlatform } from '#libs/testing';

let platform: Platform;
beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
});
afterAll(() => platform?.close());

const limit = (caller: Caller, limits: Record<string, number>) =>
  platform.db.operatorTransaction((tx) => setQuotas(tx, caller.actor.tenantId, limits));

const create = (caller: Caller, kind: string, body: object, dryRun = false): Promise<ChangeResult> =>
  platform.pipeline.create(caller, platform.registry.get(kind), body, { dryRun });

const network = (n: number) => ({ name: `n-${n}`, subnet: '10.0.0.0/24' });

async function used(caller: Caller): Promise<Record<string, number>> {
  const { tenantId } = caller.actor;
  const rows = await platform.db.operator.selectFrom('quota').selectAll().where('tenant_id', '=', tenantId).execute();
  return Object.fromEntries(rows.map((row) => [row.name, row.used]));
}

async function expectNoDrift(): Promise<void> {
  expect((await sql`select * from quota_drift`.execute(platform.db.operator)).rows).toEqual([]);
}

/** How many were refused for the quota; throws for any other refusal. */
function refused(outcomes: PromiseSettledResult<unknown>[]): number {
  const reasons = outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [outcome.reason] : []));
  for (const reason of reasons) if (reason.code !== 'quota_exceeded') throw reason;
  return reasons.length;
}

describe('quotas', () => {
  test('let exactly as many of 200 parallel creates through as fit', async () => {
    const caller = await platform.tenant();
    await create(caller, 'network', network(1000));
    await limit(caller, { networks: 38 });
    const outcomes = await Promise.allSettled(
      Array.from({ length: 200 }, (_, n) => create(caller, 'network', network(n))),
    );
    expect(refused(outcomes)).toBe(200 - 37);
    expect(await used(caller)).toEqual({ networks: 38 });
    const list = await platform.reader.list(caller, platform.registry.get('network'), { count: 'true' });
    expect(list.totalCount).toBe(38);
    await expectNoDrift();
  }, 60_000);

  test('of sums let through what fits, and refuse nothing that would still fit in the end', async () => {
    const caller = await platform.tenant();
    const lan = await create(caller, 'network', network(0));
    await platform.done(caller, lan);
    await limit(caller, { vcpus: 12, addresses: 100 });
    const sizes = [1, 3, 2, 4, 1, 2, 3, 4, 2, 1, 3, 2];
    const outcomes = await Promise.allSettled(
      sizes.map((vcpus, n) => {
        const interfaces = [{ network: lan.body.id }];
        return create(caller, 'instance', { name: `i-${n}`, image: 'tiny', vcpus, memoryMiB: 64, interfaces });
      }),
    );
    expect(refused(outcomes)).toBeGreaterThan(0);
    const made = sizes.filter((_, n) => outcomes[n]!.status === 'fulfilled');
    const sum = made.reduce((total, vcpus) => total + vcpus, 0);
    expect(await used(caller)).toEqual({ vcpus: sum, addresses: made.length });
    const smallest = Math.min(...sizes.filter((_, n) => outcomes[n]!.status === 'rejected'));
    expect(12 - sum).toBeGreaterThanOrEqual(0);
    expect(12 - sum).toBeLessThan(smallest);
    await expectNoDrift();
  }, 60_000);

  test('say what is left, also in a dry run, which uses nothing', async () => {
    const caller = await platform.tenant();
    await limit(caller, { networks: 1 });
    await create(caller, 'network', network(0), true);
    expect(await used(caller)).toEqual({ networks: 0 });
    await create(caller, 'network', network(0));
    const numbers = { quota: 'networks', max: 1, used: 1, asked: 1, left: 0 };
    for (const dryRun of [true, false]) {
      await expect(create(caller, 'network', network(1), dryRun)).rejects.toMatchObject({
        code: 'quota_exceeded',
        details: { extensions: numbers },
      });
    }
  });

  test('come back with what is deleted, cancelled or refused, whatever the order', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.constantFrom('create', 'delete', 'cancel', 'refused'), { minLength: 3, maxLength: 10 }),
        fc.integer({ min: 0, max: 4 }),
        async (deeds, max) => {
          const caller = await platform.tenant();
          await limit(caller, { networks: max });
          const alive: string[] = [];
          for (const [n, deed] of deeds.entries()) {
            if (deed === 'delete') {
              const id = alive.pop();
              if (id !== undefined) {
                const kind = platform.registry.get('network');
                await platform.done(caller, await platform.pipeline.remove(caller, kind, id));
              }
              continue;
            }
            const body = deed === 'refused' ? { ...network(n), gateway: '10.9.9.9' } : network(n);
            const made = await create(caller, 'network', body).catch((error: RhyzomeError) => error);
            if (made instanceof RhyzomeError) {
              expect(made.code).toBe(deed === 'refused' ? 'invalid' : 'quota_exceeded');
              if (deed !== 'refused') expect(alive.length).toBe(max);
              continue;
            }
            const cancelled =
              deed === 'cancel' &&
              (await platform.jobs.cancel(caller, made.jobId!).catch((error: RhyzomeError) => {
                if (error.code !== 'not_cancellable') throw error;
                return undefined;
              }));
            const job = await platform.ended(caller, made.jobId!);
            if (cancelled) expect(job.state).toBe('cancelled');
            else alive.push(made.body.id);
          }
          expect(await used(caller)).toEqual({ networks: alive.length });
        },
      ),
      { numRuns: 15 },
    );
    await expectNoDrift();
  }, 60_000);

  test('set while creates are under way count all of them, once', async () => {
    const caller = await platform.tenant();
    const creates = Array.from({ length: 60 }, (_, n) => create(caller, 'network', network(n)));
    const sets = Array.from({ length: 6 }, async (_, n) => {
      await new Promise((resolve) => setTimeout(resolve, n * 20));
      await limit(caller, { networks: 1000 });
      if (n % 2) await platform.db.operatorTransaction((tx) => unsetQuotas(tx, caller.actor.tenantId, ['networks']));
    });
    await Promise.all([...creates, ...sets]);
    await limit(caller, { networks: 1000 });
    expect(await used(caller)).toEqual({ networks: 60 });
    await expectNoDrift();
  }, 60_000);

  test('below what is used refuse more and take nothing away', async () => {
    const caller = await platform.tenant();
    for (const n of [0, 1]) await platform.done(caller, await create(caller, 'network', network(n)));
    await limit(caller, { networks: 1 });
    await expect(create(caller, 'network', network(2))).rejects.toMatchObject({
      details: { extensions: { max: 1, used: 2, left: 0 } },
    });
    const kind = platform.registry.get('network');
    await platform.done(caller, await platform.pipeline.update(caller, kind, 'n-0', { mtu: 1400 }));
    await platform.done(caller, await platform.pipeline.remove(caller, kind, 'n-0'));
    expect(await used(caller)).toEqual({ networks: 1 });
  });

  test('do not make those wait for each other in a circle who use them in different orders', async () => {
    const caller = await platform.tenant();
    const { tenantId } = caller.actor;
    await platform.done(caller, await create(caller, 'network', network(0)));
    await limit(caller, { addresses: 1000, networks: 1000 });
    const lives = Array.from({ length: 16 }, (_, n) =>
      platform.db.tenantTransaction(tenantId, async (tx) => {
        const id = newId();
        const makeNetwork = async () => {
          await sql`insert into resource (tenant_id, id, kind, name, state, created_by)
            values (${tenantId}, ${id}, 'network', ${`x-${n}`}, 'ready', 't')`.execute(tx);
          await sql`insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
            values (${tenantId}, ${id}, '10.1.0.0/24', '10.1.0.1', 1450, 253, '10.1.0.2')`.execute(tx);
        };
        const makeLease = () =>
          sql`insert into lease (tenant_id, id, network_id, ip, mac, automatic)
            select tenant_id, ${newId()}, id, gateway + ${n + 1}, ('02:00:00:00:01:' || lpad(to_hex(${n}::int), 2, '0'))::macaddr,
              false from network where tenant_id = ${tenantId} and subnet = '10.0.0.0/24'`.execute(tx);
        for (const make of n % 2 ? [makeNetwork, makeLease] : [makeLease, makeNetwork]) await make();
      }),
    );
    await Promise.all(lives);
    expect(await used(caller)).toEqual({ addresses: 16, networks: 17 });
    await expectNoDrift();
  }, 60_000);

  test('count what every kind makes that users can create', async () => {
    const names = await platform.db.operator.selectFrom('quota_source').select('name').execute();
    const counted = new Set(names.map(({ name }) => name));
    const creatable = kinds.filter(({ changes }) => changes === undefined || changes.includes('create'));
    const missing = creatable.filter(({ plural }) => !counted.has(plural)).map(({ name }) => name);
    expect(missing, 'kinds whose migration does not call count_in_quota').toEqual([]);
  });

  test('check what a transaction takes and gives back as a whole', async () => {
    const caller = await platform.tenant();
    const { tenantId } = caller.actor;
    await platform.done(caller, await create(caller, 'network', network(0)));
    const lease = (host: number) => sql`insert into lease (tenant_id, id, network_id, ip, mac, automatic)
      select tenant_id, ${newId()}, id, gateway + ${host}, ('02:00:00:00:00:' || lpad(to_hex(${host}::int), 2, '0'))::macaddr, false
      from network where tenant_id = ${tenantId}`;
    const leases = (from: number, to: number, gone: number) =>
      platform.db.tenantTransaction(tenantId, async (tx) => {
        for (let host = from; host <= to; host++) await lease(host).execute(tx);
        await sql`delete from lease where id in (select id from lease order by ip limit ${gone})`.execute(tx);
      });
    await limit(caller, { addresses: 3 });
    await leases(1, 3, 0);
    // More for a moment, and not more in the end.
    await leases(4, 6, 3);
    await expect(leases(7, 8, 1)).rejects.toMatchObject({
      code: 'quota_exceeded',
      details: { extensions: { quota: 'addresses', max: 3, used: 3, asked: 1, left: 0 } },
    });
    await limit(caller, { addresses: 1 });
    await leases(9, 9, 1);
    await leases(10, 10, 2);
    expect(await used(caller)).toEqual({ addresses: 2 });
    await expectNoDrift();
  });

  test('count what changes', async () => {
    const caller = await platform.tenant();
    const { tenantId } = caller.actor;
    const id = newId();
    await platform.db.operatorTransaction(async (tx) => {
      await sql`insert into resource (tenant_id, id, kind, name, state, created_by)
        values (${tenantId}, ${id}, 'disk', 'd', 'ready', 't')`.execute(tx);
      await sql`insert into disk (tenant_id, id, size_gib) values (${tenantId}, ${id}, 3)`.execute(tx);
    });
    await limit(caller, { diskGiB: 8, disks: 5 });
    const grow = (size: number) =>
      platform.db.tenantTransaction(tenantId, (tx) =>
        sql`update disk set size_gib = ${size} where id = ${id}`.execute(tx),
      );
    await grow(8);
    expect(await used(caller)).toEqual({ diskGiB: 8, disks: 1 });
    await expect(grow(9)).rejects.toMatchObject({ details: { extensions: { used: 8, asked: 1, left: 0 } } });
    await grow(2);
    expect(await used(caller)).toEqual({ diskGiB: 2, disks: 1 });
    await platform.db.tenantTransaction(tenantId, (tx) => sql`delete from resource where id = ${id}`.execute(tx));
    expect(await used(caller)).toEqual({ diskGiB: 0, disks: 0 });
    await expectNoDrift();
  });

  test('of a tenant are not another’s business', async () => {
    const [one, other] = [await platform.tenant(), await platform.tenant()];
    await limit(one, { networks: 0 });
    await create(other, 'network', network(0));
    const seen = await platform.db.tenantRead(
      other.actor.tenantId,
      platform.db.builder.selectFrom('quota').selectAll().compile(),
    );
    expect(seen).toEqual([]);
    const steal = platform.db.tenantTransaction(one.actor.tenantId, (tx) =>
      sql`update quota set max = 10 where tenant_id = ${one.actor.tenantId}`.execute(tx),
    );
    await expect(steal).rejects.toMatchObject({ code: '42501' });
  });

  test('by default are what a new tenant begins with', async () => {
    const id = `t${newId().slice(-12).replaceAll('-', '')}`;
    await platform.db.operatorTransaction((tx) => setQuotas(tx, '*', { networks: 1 }));
    try {
      const caller = await platform.tenant(id);
      await create(caller, 'network', network(0));
      await expect(create(caller, 'network', network(1))).rejects.toMatchObject({ code: 'quota_exceeded' });
    } finally {
      await platform.db.operatorTransaction((tx) => unsetQuotas(tx, '*', ['networks']));
    }
  });
});
