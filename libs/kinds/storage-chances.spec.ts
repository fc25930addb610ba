/**
 * Disks, snapshots, instances and images of one tenant, changed, cancelled, retried and deleted in the middle of one another
 * by chance (seeded): whatever came of it, every job ends, and nothing is left that belongs to what is gone.
 */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { RhyzomeError } from '#libs/core';
import { kinds } from '#libs/kinds';
import type { Caller } from '#libs/resources';
import { globalImage, type Platform, startPlatform } from '#libs/testing';

const ROUNDS = Number(process.env.RHYZOME_ROUNDS ?? 3);
const ACTS = 90;
const deletable = ['instance', 'snapshot', 'disk', 'portforward', 'publicaddress', 'firewallrule', 'network'];

let platform: Platform;

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
  await sql`update installation set deleted_disks_kept = null`.execute(platform.db.operator);
});
afterAll(() => platform?.close());

/** mulberry32: small, and the same everywhere. */
function chances(seed: number) {
  let state = seed;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return { next, of: <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)]! };
}

type Chances = ReturnType<typeof chances>;

/** One thing that a tenant does; refusals are part of it. */
function act(caller: Caller, chance: Chances, jobs: string[]): Promise<unknown> {
  const { pipeline, registry } = platform;
  const kind = (name: string) => registry.get(name);
  const some = (prefix: string) => `${prefix}${Math.floor(chance.next() * 3)}`;
  const [disk, snapshot, vm] = [some('d'), some('s'), some('v')];
  const target = chance.of([disk, vm]);
  const kept = async (change: Promise<{ jobId?: string }>) => {
    const { jobId } = await change;
    if (jobId) jobs.push(jobId);
  };
  const create = (name: string, body: object) => kept(pipeline.create(caller, kind(name), body));
  const on = (name: string, id: string, action: string, body: object = {}) =>
    kept(pipeline.act(caller, kind(name), id, action, body));
  const machine = { name: vm, vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'lan' }] };
  const cascade = chance.next() < 0.3;
  const ways: (() => Promise<unknown>)[] = [
    () => create('disk', { name: disk, sizeGiB: 1 }),
    () => create('disk', { name: disk, image: 'tiny' }),
    () => create('disk', { name: disk, snapshot }),
    () => create('snapshot', { name: snapshot, disk: target }),
    () => create('instance', { ...machine, image: 'tiny' }),
    () => create('instance', { ...machine, image: 'tiny', disks: [disk] }),
    () => create('instance', { ...machine, bootDisk: disk }),
    () => on('disk', disk, 'attach', { instance: vm }),
    () => on('disk', target, 'detach'),
    () => on('snapshot', snapshot, 'restore'),
    () => on('instance', vm, chance.of(['start', 'stop', 'reboot'])),
    () => on('instance', vm, 'resize', { vcpus: chance.of([1, 2]), memoryMiB: 128 }),
    () => kept(pipeline.update(caller, kind('disk'), target, { sizeGiB: chance.of([1, 2, 3]) })),
    () => kept(pipeline.update(caller, kind('disk'), target, { tags: { a: `${chance.of([1, 2])}` } })),
    () => kept(pipeline.update(caller, kind('instance'), vm, { tags: { a: `${chance.of([1, 2])}` } })),
    () => kept(pipeline.remove(caller, kind('disk'), target, { cascade })),
    () => kept(pipeline.remove(caller, kind('snapshot'), snapshot, { cascade })),
    () => kept(pipeline.remove(caller, kind('instance'), vm, { cascade })),
    () => platform.jobs.cancel(caller, chance.of(jobs)),
    () => platform.jobs.retry(caller, chance.of(jobs)),
  ];
  return chance.of(ways)();
}

/** Of what the tenant has and no job is at, what contradicts itself. */
async function contradictions(tenant: string): Promise<object[]> {
  const result = await sql`
    select 'state' as what, r.kind, r.name, r.state from resource r
      where r.tenant_id = ${tenant} and r.state not in ('ready', 'failed')
    union all select 'restoring', 'disk', id::text, null from disk where tenant_id = ${tenant} and restoring is not null
    union all select 'placement of nothing', p.kind, p.resource_id::text, null from placement p
      where p.tenant_id = ${tenant} and not exists (select 1 from resource r where r.id = p.resource_id)
    union all select 'room of nothing', null, v.resource_id::text, null from reservation v
      where v.tenant_id = ${tenant} and not exists (select 1 from resource r where r.id = v.resource_id)
    union all select 'edge of nothing', d.relation, d.resource_id::text, d.target_id::text from dependency d
      where d.tenant_id = ${tenant} and not exists (select 1 from resource r where r.id = d.resource_id)
    union all select 'attached to nothing', 'disk', k.id::text, k.instance_id::text from disk k
      where k.tenant_id = ${tenant} and k.instance_id is not null
        and not exists (select 1 from instance i where i.id = k.instance_id)
    union all select 'attached without edge', 'disk', k.id::text, null from disk k
      where k.tenant_id = ${tenant} and k.instance_id is not null and not exists (select 1 from dependency d
        where d.tenant_id = ${tenant} and d.resource_id = k.instance_id and d.target_id = k.id)
    union all select 'edge without attachment', d.relation, d.target_id::text, null from dependency d
      where d.tenant_id = ${tenant} and d.relation in ('has attached', 'boots from') and not exists
        (select 1 from disk k where k.id = d.target_id and k.instance_id = d.resource_id)
    union all select 'ready without content', r.kind, r.name, null from resource r
      where r.tenant_id = ${tenant} and r.state = 'ready' and r.kind in ('disk', 'snapshot', 'instance')
        and not exists (select 1 from placement p where p.resource_id = r.id and p.present)
    union all select 'other room than size', 'disk', k.id::text, v.disk_gib || ' for ' || k.size_gib
      from disk k join reservation v on v.tenant_id = k.tenant_id and v.resource_id = k.id
      where k.tenant_id = ${tenant} and v.disk_gib <> k.size_gib
    union all select 'ready without room', r.kind, r.name, null from resource r
      where r.tenant_id = ${tenant} and r.state = 'ready' and r.kind in ('disk', 'instance')
        and not exists (select 1 from reservation v where v.tenant_id = r.tenant_id and v.resource_id = r.id)
    union all select 'quota', q.name, q.used::text, measure_quota(${tenant}, q.name)::text from quota q
      where q.tenant_id = ${tenant} and q.used <> measure_quota(${tenant}, q.name)`.execute(platform.db.operator);
  return result.rows as object[];
}

async function allJobsEnd(tenant: string): Promise<void> {
  const open = async () => {
    const result = await sql`select kind, action, state, message from job
      where tenant_id = ${tenant} and finished_at is null`.execute(platform.db.operator);
    return result.rows;
  };
  await expect.poll(open, { timeout: 40_000, interval: 100 }).toEqual([]);
  await platform.node.look();
}

async function removeAll(caller: Caller): Promise<void> {
  for (const name of deletable) {
    const kind = platform.registry.get(name);
    for (const { id } of (await platform.reader.list(caller, kind, {})).items) {
      await platform.pipeline.remove(caller, kind, id, { cascade: true }).catch((error) => {
        if (!(error instanceof RhyzomeError) || error.code !== 'not_found') throw error;
      });
    }
  }
}

const firstSeed = Number(process.env.RHYZOME_SEED ?? 1);

test.each(Array.from({ length: ROUNDS }, (_, round) => firstSeed + round))(
  'seed %i',
  { timeout: 120_000 },
  async (seed) => {
    const chance = chances(seed);
    const caller = await platform.tenant();
    const { tenantId } = caller.actor;
    await sql`insert into quota (tenant_id, name, max, used)
    select ${tenantId}, name, 1000, 0 from quota_source group by name`.execute(platform.db.operator);
    const lan = await platform.pipeline.create(caller, platform.registry.get('network'), {
      name: 'lan',
      subnet: '10.9.0.0/24',
    });
    await platform.done(caller, lan);
    const jobs = [lan.jobId!];
    const unexpected: unknown[] = [];
    platform.node.refuse = ({ kind }) =>
      kind !== 'network' && chance.next() < 0.05 ? { code: 'broken', message: 'By chance.' } : undefined;
    for (let done = 0; done < ACTS; done += 3) {
      platform.node.isAway = chance.next() < 0.3;
      const three = [act(caller, chance, jobs), act(caller, chance, jobs), act(caller, chance, jobs)];
      for (const outcome of await Promise.allSettled(three)) {
        if (outcome.status === 'rejected' && !(outcome.reason instanceof RhyzomeError)) unexpected.push(outcome.reason);
      }
      await new Promise((resolve) => setTimeout(resolve, chance.of([0, 5, 40])));
    }
    platform.node.isAway = false;
    platform.node.refuse = () => undefined;
    expect(unexpected).toEqual([]);
    await allJobsEnd(tenantId);
    expect(await contradictions(tenantId)).toEqual([]);
    await removeAll(caller);
    await allJobsEnd(tenantId);
    const left = await sql`select kind, name, state from resource where tenant_id = ${tenantId}
    union all select 'placement of ' || kind, resource_id::text, phase from placement where tenant_id = ${tenantId}
    union all select 'reservation', resource_id::text, null from reservation where tenant_id = ${tenantId}
    union all select 'deed', verb, state from deed where tenant_id = ${tenantId}
    union all select 'edge', relation, null from dependency where tenant_id = ${tenantId}
    union all select 'quota', name, used::text from quota where tenant_id = ${tenantId} and used <> 0`.execute(
      platform.db.operator,
    );
    expect(left.rows).toEqual([]);
  },
);
