/** Room on nodes: never promised twice, given back when it is not used, refused with what would fit. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import type { Caller, ChangeResult } from '#libs/resources';
import { globalImage, type Platform, startPlatform } from '#libs/testing';

let platform: Platform;
let caller: Caller;

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
});
afterAll(() => platform?.close());
beforeEach(async () => {
  await setNode({ cordoned: false, vcpus: 1, memory_mib: 512, disk_gib: 10 });
  caller = await platform.tenant();
  const network = platform.registry.get('network');
  await platform.done(caller, await platform.pipeline.create(caller, network, { name: 'lan', subnet: '10.80.0.0/24' }));
});

const setNode = (values: object) =>
  platform.db.operator.updateTable('node').set(values).where('id', '=', platform.node.id).execute();

function create(name: string, more: object = {}, by = caller): Promise<ChangeResult> {
  const body = { name, image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }], ...more };
  return platform.pipeline.create(by, platform.registry.get('instance'), body);
}

async function remove(change: ChangeResult): Promise<void> {
  const removal = await platform.pipeline.remove(caller, platform.registry.get('instance'), change.body.id);
  await platform.done(caller, removal);
}

async function reserved(): Promise<number> {
  const result = await sql<{ n: number }>`select coalesce(sum(memory_mib), 0)::int as n from reservation`.execute(
    platform.db.operator,
  );
  return result.rows[0]!.n;
}

describe('capacity', () => {
  test('of a node for four machines is given to four of ten that ask at once, and again when one leaves', async () => {
    const outcomes = await Promise.allSettled(Array.from({ length: 10 }, (_, i) => create(`m-${i}`)));
    const made = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    expect(made).toHaveLength(4);
    for (const outcome of outcomes) {
      if (outcome.status === 'fulfilled') continue;
      expect(outcome.reason).toMatchObject({
        code: 'no_capacity',
        details: { extensions: { short: ['memoryMiB'], wouldFit: { memoryMiB: 0 } } },
      });
    }
    expect(await reserved()).toBe(512);
    for (const change of made) await platform.ended(caller, change.jobId!);
    await remove(made[0]!);
    const again = await create('again');
    await platform.done(caller, again);
    for (const change of [...made.slice(1), again]) await remove(change);
    expect(await reserved()).toBe(0);
  });

  test('is refused with what is short and what would fit, and a refusal or dry run takes nothing', async () => {
    await expect(create('big', { memoryMiB: 1024, vcpus: 9 })).rejects.toMatchObject({
      code: 'no_capacity',
      details: { extensions: { short: ['vcpus', 'memoryMiB'], wouldFit: { vcpus: 8, memoryMiB: 512, diskGiB: 10 } } },
    });
    const instance = platform.registry.get('instance');
    const body = { name: 'dry', image: 'tiny', vcpus: 1, memoryMiB: 512, interfaces: [{ network: 'lan' }] };
    await platform.pipeline.create(caller, instance, body, { dryRun: true });
    expect(await reserved()).toBe(0);
  });

  test('of a cordoned node, or one not seen for long, is none', async () => {
    await setNode({ cordoned: true });
    await expect(create('no-1')).rejects.toMatchObject({ code: 'no_capacity' });
    await setNode({ cordoned: false, last_seen_at: new Date(Date.now() - 120_000) });
    await expect(create('no-2')).rejects.toMatchObject({ code: 'no_capacity' });
    await setNode({ last_seen_at: new Date() });
    const change = await create('yes');
    await platform.done(caller, change);
    await remove(change);
  });

  test('of a create that failed is free until it is retried', async () => {
    platform.node.refuse = (row) => (row.kind === 'instance' ? { code: 'no', message: 'no' } : undefined);
    const failed = await create('failed', { memoryMiB: 512 });
    expect((await platform.ended(caller, failed.jobId!)).state).toBe('failed');
    platform.node.refuse = () => undefined;
    expect(await reserved()).toBe(0);
    const other = await create('other', { memoryMiB: 512 });
    await platform.done(caller, other);
    await expect(platform.jobs.retry(caller, failed.jobId!)).rejects.toMatchObject({ code: 'no_capacity' });
    await remove(other);
    await platform.jobs.retry(caller, failed.jobId!);
    expect((await platform.ended(caller, failed.jobId!)).state).toBe('succeeded');
    await remove(failed);
    expect(await reserved()).toBe(0);
  });
});
