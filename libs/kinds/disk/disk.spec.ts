/** Disks and the machines that they are attached to: by one at a time, kept while in use, there when the machine goes. */
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

/** What the node was told of a machine's disks. */
async function toldDisks(instance: string) {
  const result = await sql<{ disks: { diskId: string; slot: number; bootOrder: number | null }[] }>`
    select spec -> 'disks' as disks from placement where resource_id = ${instance}`.execute(platform.db.operator);
  return result.rows[0]!.disks;
}

describe('attaching', () => {
  test('takes the lowest free slot, and gives it back', async () => {
    const id = await user.machine('web');
    for (const name of ['a', 'b']) await user.make('disk', { name, sizeGiB: 1 });
    for (const name of ['a', 'b']) await user.done(user.act('disk', name, 'attach', { instance: 'web' }));
    const [a, b] = [await user.view('disk', 'a'), await user.view('disk', 'b')];
    expect([a.device, b.device]).toEqual(['vdb', 'vdc']);
    expect((await toldDisks(id)).map(({ diskId, slot }) => [diskId, slot]).slice(1)).toEqual([
      [a.id, 1],
      [b.id, 2],
    ]);
    await user.done(user.act('disk', 'a', 'detach'));
    await user.make('disk', { name: 'c', sizeGiB: 1 });
    await user.done(user.act('disk', 'c', 'attach', { instance: id }));
    expect(await user.view('disk', 'c')).toMatchObject({ device: 'vdb', instance: id });
    expect((await user.view('instance', id)).disks).toEqual([(await user.view('disk', 'c')).id, b.id]);
    // What is attached stays when its machine goes, attached to none.
    await user.done(user.remove('instance', id));
    expect(await user.view('disk', 'b')).toMatchObject({ state: 'ready', instance: null, device: null });
  });

  test('is done once: twice, and to two machines at once', async () => {
    for (const name of ['one', 'two']) await user.machine(name);
    await user.make('disk', { name: 'data', sizeGiB: 1 });
    const outcomes = await Promise.allSettled(
      ['one', 'two', 'one', 'two'].map((instance) => user.act('disk', 'data', 'attach', { instance })),
    );
    const made = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    expect(made).toHaveLength(1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason.code).toMatch(/^(busy|in_use)$/);
    }
    await platform.done(user.caller, made[0]!);
    await expect(user.act('disk', 'data', 'attach', { instance: 'one' })).rejects.toMatchObject({ code: 'in_use' });
    const holders = [await user.view('instance', 'one'), await user.view('instance', 'two')].filter(
      ({ disks }) => (disks as string[]).length > 0,
    );
    expect(holders).toHaveLength(1);
  });

  test('is refused for an instance that there is not, also another tenant’s, and for one that is not ready', async () => {
    await user.make('disk', { name: 'data', sizeGiB: 1 });
    const foreign = await (await TenantUser.inNewTenant(platform)).machine('foreign');
    for (const instance of ['nosuch', foreign]) {
      await expect(user.act('disk', 'data', 'attach', { instance })).rejects.toMatchObject({
        code: 'invalid',
        details: { errors: [{ pointer: '/instance', code: 'not_found' }] },
      });
    }
    platform.node.isAway = true;
    try {
      await user.create('instance', {
        name: 'slow',
        image: 'tiny',
        vcpus: 1,
        memoryMiB: 128,
        interfaces: [{ network: 'lan' }],
      });
      await expect(user.act('disk', 'data', 'attach', { instance: 'slow' })).rejects.toMatchObject({
        code: 'not_ready',
      });
      await expect(user.act('disk', 'slow', 'detach')).rejects.toMatchObject({ code: 'busy' });
    } finally {
      platform.node.isAway = false;
    }
  });

  test('that the guest does not let go of leaves the disk attached', async () => {
    const id = await user.machine('web');
    await user.make('disk', { name: 'data', sizeGiB: 1 });
    await user.done(user.act('disk', 'data', 'attach', { instance: id }));
    platform.node.refuse = (row) =>
      row.kind === 'instance' && (row.spec as unknown as { disks: object[] }).disks.length === 1
        ? { code: 'guest_refused', message: 'The guest does not let go of the disk.' }
        : undefined;
    const change = await user.act('disk', 'data', 'detach');
    const job = await platform.ended(user.caller, change.jobId!);
    platform.node.refuse = () => undefined;
    expect(job).toMatchObject({ state: 'failed', error: { detail: expect.stringContaining('does not let go') } });
    expect(await user.view('disk', 'data')).toMatchObject({ state: 'ready', instance: id, device: 'vdb' });
    await platform.node.look();
    expect(await toldDisks(id)).toHaveLength(2);
  });

  test('or detaching is told to a machine only where that stands', async () => {
    await user.make('disk', { name: 'data', sizeGiB: 1 });
    platform.node.refuse = (row) => (row.kind === 'instance' ? { code: 'broken', message: 'No.' } : undefined);
    const body = { name: 'web', image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] };
    const change = await user.create('instance', { ...body, disks: ['data'] });
    await platform.ended(user.caller, change.jobId!).finally(() => {
      platform.node.refuse = () => undefined;
    });
    await user.done(user.act('disk', 'data', 'detach'));
    const { rows } = await sql`select 1 from placement where resource_id = ${change.body.id}`.execute(
      platform.db.operator,
    );
    expect(rows).toEqual([]);
    await user.done(user.remove('instance', 'web'));
  });

  test('while the machine is being deleted ends with a disk that is attached to none', async () => {
    for (let round = 0; round < 5; round += 1) {
      const id = await user.machine(`m-${round}`);
      const disk = await user.make('disk', { name: `d-${round}`, sizeGiB: 1 });
      const [attached, removed] = await Promise.allSettled([
        user.act('disk', disk, 'attach', { instance: id }),
        user.remove('instance', id),
      ]);
      expect(removed.status).toBe('fulfilled');
      if (attached.status === 'fulfilled') await platform.ended(user.caller, attached.value.jobId!);
      else expect(attached.reason.code).toMatch(/^(not_ready|invalid|conflict)$/);
      if (removed.status === 'fulfilled') await platform.done(user.caller, removed.value);
      expect(await user.view('disk', disk)).toMatchObject({ state: 'ready', instance: null });
    }
  });
});

describe('a machine from disks that are there', () => {
  test('boots from one and has the others, and leaves them when it goes', async () => {
    const boot = await user.make('disk', { name: 'system', image: 'tiny', sizeGiB: 2 });
    const data = await user.make('disk', { name: 'data', sizeGiB: 1 });
    const id = await user.make('instance', {
      name: 'web',
      bootDisk: 'system',
      disks: ['data'],
      vcpus: 1,
      memoryMiB: 128,
      interfaces: [{ network: 'lan' }],
    });
    expect(await user.view('instance', id)).toMatchObject({ image: null, bootDisk: boot, disks: [data], diskGiB: 2 });
    expect(await toldDisks(id)).toEqual([
      { diskId: boot, slot: 0, bootOrder: 1 },
      { diskId: data, slot: 1, bootOrder: null },
    ]);
    await user.done(user.remove('instance', id));
    for (const disk of [boot, data])
      expect(await user.view('disk', disk)).toMatchObject({ state: 'ready', instance: null });
  });

  test('takes only those that whoever asks may attach: it writes to them', async () => {
    await user.make('disk', { name: 'system', image: 'tiny', sizeGiB: 2 });
    const { actor } = user.caller;
    const scopesOf = (text: string) => text.split(' ').map((scope) => scope.split(':') as [string, string]);
    const holding = (text: string) => ({
      ...user.caller,
      actor: { ...actor, scopes: scopesOf(text).map(([kind, verb]) => ({ kind, verb })) },
    });
    const body = { name: 'web', bootDisk: 'system', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] };
    const create = (scopes: string) => platform.pipeline.create(holding(scopes), user.kind('instance'), body);
    const reading = 'instance:create instance:read network:read disk:read';
    await expect(create(reading)).rejects.toMatchObject({ code: 'forbidden' });
    await user.done(create(`${reading} disk:attach`));
  });

  test('is refused a disk that another has, twice the same, and an image beside a boot disk', async () => {
    const body = { name: 'second', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] };
    await user.machine('web');
    await expect(user.create('instance', { ...body, bootDisk: 'web' })).rejects.toMatchObject({ code: 'in_use' });
    await user.make('disk', { name: 'data', sizeGiB: 1 });
    for (const [more, pointer] of [
      [{ image: 'tiny', disks: ['data', 'data'] }, '/disks/1'],
      [{ image: 'tiny', bootDisk: 'data' }, '/bootDisk'],
      [{ bootDisk: 'data', diskGiB: 4 }, '/diskGiB'],
      [{}, '/image'],
    ] as const) {
      await expect(user.create('instance', { ...body, ...more }), pointer).rejects.toMatchObject({
        code: 'invalid',
        details: { errors: [{ pointer }] },
      });
    }
  });
});

test('a disk that could not be made takes no room and stands nowhere, however it is changed, until it is retried', async () => {
  platform.node.refuse = (row) => (row.kind === 'disk' ? { code: 'broken', message: 'No.' } : undefined);
  const change = await user.create('disk', { name: 'data', sizeGiB: 1 });
  await platform.ended(user.caller, change.jobId!).finally(() => {
    platform.node.refuse = () => undefined;
  });
  const { id } = change.body;
  await user.done(user.patch('disk', id, { sizeGiB: 4 }));
  expect(await user.view('disk', id)).toMatchObject({ state: 'failed', sizeGiB: 4 });
  const held = await sql`select resource_id from placement where resource_id = ${id}
    union all select resource_id from reservation where resource_id = ${id}`.execute(platform.db.operator);
  expect(held.rows).toEqual([]);
  await platform.jobs.retry(user.caller, change.jobId!);
  await expect.poll(async () => (await user.view('disk', id)).state, { timeout: 15_000 }).toBe('ready');
  expect(platform.node.machine.get(id)?.spec).toMatchObject({ sizeBytes: 4 * 2 ** 30 });
});
