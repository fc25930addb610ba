/** The boot disk of a machine that is made from an image: comes with it, and goes with it unless it is needed. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import { globalImage, type Platform, startPlatform, TenantUser } from '#libs/testing';

let platform: Platform;
let user: TenantUser;

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
  await sql`update installation set deleted_disks_kept = null`.execute(platform.db.operator);
});
afterAll(() => platform?.close());
beforeEach(async () => {
  user = await TenantUser.inNewTenant(platform);
});

describe('a machine’s own disk', () => {
  test('comes with it, named as it, and goes with it; it is attached and cannot be deleted or detached', async () => {
    const id = await user.machine('web');
    const body = await user.view('instance', id);
    const disk = await user.view('disk', 'web');
    expect(body).toMatchObject({ bootDisk: disk.id, disks: [], diskGiB: 1 });
    expect(disk).toMatchObject({ state: 'ready', instance: id, bootOrder: 1, device: 'vda', sizeGiB: 1 });
    const blockers = [{ kind: 'instance', id, name: 'web', relation: 'boots from' }];
    await expect(user.remove('disk', disk.id)).rejects.toMatchObject({ code: 'in_use', details: { blockers } });
    await expect(user.act('disk', disk.id, 'detach')).rejects.toMatchObject({ code: 'in_use' });
    await user.done(user.remove('instance', id));
    await expect(user.view('disk', disk.id)).rejects.toMatchObject({ code: 'not_found' });
  });

  test('has another name where that one is taken', async () => {
    await user.make('disk', { name: 'web', sizeGiB: 1 });
    const { bootDisk } = await user.view('instance', await user.machine('web'));
    expect((await user.view('disk', bootDisk as string)).name).toMatch(/^web-[0-9a-f]{8}$/);
  });

  test('has a name of its own also when a disk of that name is made at the same moment', async () => {
    const bodies = Array.from({ length: 6 }, (_, i) => `n-${i}`);
    const outcomes = await Promise.allSettled(
      bodies.flatMap((name) => [
        user.create('instance', { name, image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] }),
        user.create('disk', { name, sizeGiB: 1 }),
      ]),
    );
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'name_taken' });
      else await platform.done(user.caller, outcome.value);
    }
    const { items } = await platform.reader.list(user.caller, user.kind('disk'), { pageSize: '50' });
    expect(new Set(items.map(({ name }) => name)).size).toBe(items.length);
    expect(items.filter(({ bootOrder }) => bootOrder === 1)).toHaveLength(6);
  });

  test('stays when it is protected or has a snapshot', async () => {
    for (const [name, keep] of [
      [
        'safe',
        (id: string) => platform.pipeline.update(user.caller, user.kind('disk'), id, { deletionProtection: true }),
      ],
      ['shot', (id: string) => user.create('snapshot', { name: 'before', disk: id })],
    ] as const) {
      const id = await user.machine(name);
      const { bootDisk } = await user.view('instance', id);
      await user.done(keep(bootDisk as string));
      await user.done(user.remove('instance', id));
      expect(await user.view('disk', bootDisk as string)).toMatchObject({
        state: 'ready',
        instance: null,
        bootOrder: null,
      });
    }
  });

  test('that goes with it is changed no more, and is not made anew', async () => {
    const id = await user.machine('web');
    const disk = (await user.view('disk', 'web')).id;
    platform.node.isStillAt = (row) => row.resource_id === disk;
    try {
      const removal = await user.remove('instance', id);
      await expect.poll(async () => (await user.view('disk', disk)).state, { timeout: 15_000 }).toBe('deleting');
      await expect(user.patch('disk', disk, { tags: { a: 'b' } })).rejects.toMatchObject({ code: 'busy' });
      await expect(user.act('disk', disk, 'detach')).rejects.toMatchObject({ code: 'busy' });
      platform.node.isStillAt = () => false;
      await platform.done(user.caller, removal);
    } finally {
      platform.node.isStillAt = () => false;
    }
    await expect(user.view('disk', disk)).rejects.toMatchObject({ code: 'not_found' });
    expect(platform.node.machine.has(disk)).toBe(false);
  });

  test('whose machine could not be made is changed no more either, and goes with it', async () => {
    platform.node.refuse = (row) => (row.kind === 'instance' ? { code: 'broken', message: 'No.' } : undefined);
    const body = { name: 'web', image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] };
    const change = await user.create('instance', body);
    await platform.ended(user.caller, change.jobId!).finally(() => {
      platform.node.refuse = () => undefined;
    });
    await expect(user.patch('disk', 'web', { sizeGiB: 3 })).rejects.toMatchObject({ code: 'not_ready' });
    const { id } = await user.view('disk', 'web');
    await user.done(user.remove('instance', 'web'));
    await expect(user.view('disk', id)).rejects.toMatchObject({ code: 'not_found' });
  });

  test('grows while its machine has it, and never shrinks', async () => {
    const id = await user.machine('web');
    const { bootDisk } = await user.view('instance', id);
    await user.done(platform.pipeline.update(user.caller, user.kind('disk'), bootDisk as string, { sizeGiB: 5 }));
    expect(await user.view('instance', id)).toMatchObject({ diskGiB: 5 });
    await expect(
      platform.pipeline.update(user.caller, user.kind('disk'), bootDisk as string, { sizeGiB: 4 }),
    ).rejects.toMatchObject({ code: 'invalid', details: { errors: [{ pointer: '/sizeGiB' }] } });
  });
});
