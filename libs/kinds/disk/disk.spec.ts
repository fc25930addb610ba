/** Disks with the machines that have them: attached once, kept while in use, gone with what they came with. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import type { Caller, ChangeResult, ResourceView } from '#libs/resources';
import { globalImage, type Platform, startPlatform } from '#libs/testing';

let platform: Platform;
let caller: Caller;

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
  await sql`update installation set deleted_disks_kept = null`.execute(platform.db.operator);
});
afterAll(() => platform?.close());
beforeEach(async () => {
  caller = await platform.tenant();
  await make('network', { name: 'lan', subnet: '10.80.0.0/24' });
});

const kind = (name: string) => platform.registry.get(name);
const create = (name: string, body: object) => platform.pipeline.create(caller, kind(name), body);
const act = (name: string, id: string, action: string, body: object = {}) =>
  platform.pipeline.act(caller, kind(name), id, action, body);
const done = async (change: Promise<ChangeResult>) => platform.done(caller, await change);
const remove = (name: string, id: string) => platform.pipeline.remove(caller, kind(name), id);
const patch = (name: string, id: string, change: object) => platform.pipeline.update(caller, kind(name), id, change);
const view = async (name: string, id: string): Promise<ResourceView> =>
  (await platform.reader.get(caller, kind(name), id)).body;

async function make(name: string, body: object): Promise<string> {
  const change = await create(name, body);
  await platform.done(caller, change);
  return change.body.id;
}

const machine = (name: string, more: object = {}) =>
  make('instance', { name, image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }], ...more });

/** What the node was told of a machine's disks. */
async function toldDisks(instance: string) {
  const result = await sql<{ disks: { diskId: string; slot: number; bootOrder: number | null }[] }>`
    select spec -> 'disks' as disks from placement where resource_id = ${instance}`.execute(platform.db.operator);
  return result.rows[0]!.disks;
}

describe('a machine’s own disk', () => {
  test('comes with it, named as it, and goes with it; it is attached and cannot be deleted or detached', async () => {
    const id = await machine('web');
    const body = await view('instance', id);
    const disk = await view('disk', 'web');
    expect(body).toMatchObject({ bootDisk: disk.id, disks: [], diskGiB: 1 });
    expect(disk).toMatchObject({ state: 'ready', instance: id, bootOrder: 1, device: 'vda', sizeGiB: 1 });
    const blockers = [{ kind: 'instance', id, name: 'web', relation: 'boots from' }];
    await expect(remove('disk', disk.id)).rejects.toMatchObject({ code: 'in_use', details: { blockers } });
    await expect(act('disk', disk.id, 'detach')).rejects.toMatchObject({ code: 'in_use' });
    await done(remove('instance', id));
    await expect(view('disk', disk.id)).rejects.toMatchObject({ code: 'not_found' });
  });

  test('has another name where that one is taken', async () => {
    await make('disk', { name: 'web', sizeGiB: 1 });
    const { bootDisk } = await view('instance', await machine('web'));
    expect((await view('disk', bootDisk as string)).name).toMatch(/^web-[0-9a-f]{8}$/);
  });

  test('has a name of its own also when a disk of that name is made at the same moment', async () => {
    const bodies = Array.from({ length: 6 }, (_, i) => `n-${i}`);
    const outcomes = await Promise.allSettled(
      bodies.flatMap((name) => [
        create('instance', { name, image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] }),
        create('disk', { name, sizeGiB: 1 }),
      ]),
    );
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'name_taken' });
      else await platform.done(caller, outcome.value);
    }
    const { items } = await platform.reader.list(caller, kind('disk'), { pageSize: '50' });
    expect(new Set(items.map(({ name }) => name)).size).toBe(items.length);
    expect(items.filter(({ bootOrder }) => bootOrder === 1)).toHaveLength(6);
  });

  test('stays when it is protected or has a snapshot', async () => {
    for (const [name, keep] of [
      ['safe', (id: string) => platform.pipeline.update(caller, kind('disk'), id, { deletionProtection: true })],
      ['shot', (id: string) => create('snapshot', { name: 'before', disk: id })],
    ] as const) {
      const id = await machine(name);
      const { bootDisk } = await view('instance', id);
      await done(keep(bootDisk as string));
      await done(remove('instance', id));
      expect(await view('disk', bootDisk as string)).toMatchObject({ state: 'ready', instance: null, bootOrder: null });
    }
  });

  test('that goes with it is changed no more, and is not made anew', async () => {
    const id = await machine('web');
    const disk = (await view('disk', 'web')).id;
    platform.node.isStillAt = (row) => row.resource_id === disk;
    try {
      const removal = await remove('instance', id);
      await expect.poll(async () => (await view('disk', disk)).state, { timeout: 15_000 }).toBe('deleting');
      await expect(patch('disk', disk, { tags: { a: 'b' } })).rejects.toMatchObject({ code: 'busy' });
      await expect(act('disk', disk, 'detach')).rejects.toMatchObject({ code: 'busy' });
      platform.node.isStillAt = () => false;
      await platform.done(caller, removal);
    } finally {
      platform.node.isStillAt = () => false;
    }
    await expect(view('disk', disk)).rejects.toMatchObject({ code: 'not_found' });
    expect(platform.node.machine.has(disk)).toBe(false);
  });

  test('whose machine could not be made is changed no more either, and goes with it', async () => {
    platform.node.refuse = (row) => (row.kind === 'instance' ? { code: 'broken', message: 'No.' } : undefined);
    const body = { name: 'web', image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] };
    const change = await create('instance', body);
    await platform.ended(caller, change.jobId!).finally(() => {
      platform.node.refuse = () => undefined;
    });
    await expect(patch('disk', 'web', { sizeGiB: 3 })).rejects.toMatchObject({ code: 'not_ready' });
    const { id } = await view('disk', 'web');
    await done(remove('instance', 'web'));
    await expect(view('disk', id)).rejects.toMatchObject({ code: 'not_found' });
  });

  test('grows while its machine has it, and never shrinks', async () => {
    const id = await machine('web');
    const { bootDisk } = await view('instance', id);
    await done(platform.pipeline.update(caller, kind('disk'), bootDisk as string, { sizeGiB: 5 }));
    expect(await view('instance', id)).toMatchObject({ diskGiB: 5 });
    await expect(
      platform.pipeline.update(caller, kind('disk'), bootDisk as string, { sizeGiB: 4 }),
    ).rejects.toMatchObject({ code: 'invalid', details: { errors: [{ pointer: '/sizeGiB' }] } });
  });
});

describe('attaching', () => {
  test('takes the lowest free slot, and gives it back', async () => {
    const id = await machine('web');
    for (const name of ['a', 'b']) await make('disk', { name, sizeGiB: 1 });
    for (const name of ['a', 'b']) await done(act('disk', name, 'attach', { instance: 'web' }));
    const [a, b] = [await view('disk', 'a'), await view('disk', 'b')];
    expect([a.device, b.device]).toEqual(['vdb', 'vdc']);
    expect((await toldDisks(id)).map(({ diskId, slot }) => [diskId, slot]).slice(1)).toEqual([
      [a.id, 1],
      [b.id, 2],
    ]);
    await done(act('disk', 'a', 'detach'));
    await make('disk', { name: 'c', sizeGiB: 1 });
    await done(act('disk', 'c', 'attach', { instance: id }));
    expect(await view('disk', 'c')).toMatchObject({ device: 'vdb', instance: id });
    expect((await view('instance', id)).disks).toEqual([(await view('disk', 'c')).id, b.id]);
    // What is attached stays when its machine goes, attached to none.
    await done(remove('instance', id));
    expect(await view('disk', 'b')).toMatchObject({ state: 'ready', instance: null, device: null });
  });

  test('is done once: twice, and to two machines at once', async () => {
    for (const name of ['one', 'two']) await machine(name);
    await make('disk', { name: 'data', sizeGiB: 1 });
    const outcomes = await Promise.allSettled(
      ['one', 'two', 'one', 'two'].map((instance) => act('disk', 'data', 'attach', { instance })),
    );
    const made = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
    expect(made).toHaveLength(1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason.code).toMatch(/^(busy|in_use)$/);
    }
    await platform.done(caller, made[0]!);
    await expect(act('disk', 'data', 'attach', { instance: 'one' })).rejects.toMatchObject({ code: 'in_use' });
    const holders = [await view('instance', 'one'), await view('instance', 'two')].filter(
      ({ disks }) => (disks as string[]).length > 0,
    );
    expect(holders).toHaveLength(1);
  });

  test('is refused for an instance that there is not, also another tenant’s, and for one that is not ready', async () => {
    await make('disk', { name: 'data', sizeGiB: 1 });
    const own = caller;
    caller = await platform.tenant();
    await make('network', { name: 'lan', subnet: '10.80.0.0/24' });
    const foreign = await machine('foreign');
    caller = own;
    for (const instance of ['nosuch', foreign]) {
      await expect(act('disk', 'data', 'attach', { instance })).rejects.toMatchObject({
        code: 'invalid',
        details: { errors: [{ pointer: '/instance', code: 'not_found' }] },
      });
    }
    platform.node.isAway = true;
    try {
      await create('instance', {
        name: 'slow',
        image: 'tiny',
        vcpus: 1,
        memoryMiB: 128,
        interfaces: [{ network: 'lan' }],
      });
      await expect(act('disk', 'data', 'attach', { instance: 'slow' })).rejects.toMatchObject({ code: 'not_ready' });
      await expect(act('disk', 'slow', 'detach')).rejects.toMatchObject({ code: 'busy' });
    } finally {
      platform.node.isAway = false;
    }
  });

  test('that the guest does not let go of leaves the disk attached', async () => {
    const id = await machine('web');
    await make('disk', { name: 'data', sizeGiB: 1 });
    await done(act('disk', 'data', 'attach', { instance: id }));
    platform.node.refuse = (row) =>
      row.kind === 'instance' && (row.spec as unknown as { disks: object[] }).disks.length === 1
        ? { code: 'guest_refused', message: 'The guest does not let go of the disk.' }
        : undefined;
    const change = await act('disk', 'data', 'detach');
    const job = await platform.ended(caller, change.jobId!);
    platform.node.refuse = () => undefined;
    expect(job).toMatchObject({ state: 'failed', error: { detail: expect.stringContaining('does not let go') } });
    expect(await view('disk', 'data')).toMatchObject({ state: 'ready', instance: id, device: 'vdb' });
    await platform.node.look();
    expect(await toldDisks(id)).toHaveLength(2);
  });

  test('or detaching is told to a machine only where that stands', async () => {
    await make('disk', { name: 'data', sizeGiB: 1 });
    platform.node.refuse = (row) => (row.kind === 'instance' ? { code: 'broken', message: 'No.' } : undefined);
    const body = { name: 'web', image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] };
    const change = await create('instance', { ...body, disks: ['data'] });
    await platform.ended(caller, change.jobId!).finally(() => {
      platform.node.refuse = () => undefined;
    });
    await done(act('disk', 'data', 'detach'));
    const { rows } = await sql`select 1 from placement where resource_id = ${change.body.id}`.execute(
      platform.db.operator,
    );
    expect(rows).toEqual([]);
    await done(remove('instance', 'web'));
  });

  test('while the machine is being deleted ends with a disk that is attached to none', async () => {
    for (let round = 0; round < 5; round += 1) {
      const id = await machine(`m-${round}`);
      const disk = await make('disk', { name: `d-${round}`, sizeGiB: 1 });
      const [attached, removed] = await Promise.allSettled([
        act('disk', disk, 'attach', { instance: id }),
        remove('instance', id),
      ]);
      expect(removed.status).toBe('fulfilled');
      if (attached.status === 'fulfilled') await platform.ended(caller, attached.value.jobId!);
      else expect(attached.reason.code).toMatch(/^(not_ready|invalid|conflict)$/);
      if (removed.status === 'fulfilled') await platform.done(caller, removed.value);
      expect(await view('disk', disk)).toMatchObject({ state: 'ready', instance: null });
    }
  });
});

describe('a machine from disks that are there', () => {
  test('boots from one and has the others, and leaves them when it goes', async () => {
    const boot = await make('disk', { name: 'system', image: 'tiny', sizeGiB: 2 });
    const data = await make('disk', { name: 'data', sizeGiB: 1 });
    const id = await make('instance', {
      name: 'web',
      bootDisk: 'system',
      disks: ['data'],
      vcpus: 1,
      memoryMiB: 128,
      interfaces: [{ network: 'lan' }],
    });
    expect(await view('instance', id)).toMatchObject({ image: null, bootDisk: boot, disks: [data], diskGiB: 2 });
    expect(await toldDisks(id)).toEqual([
      { diskId: boot, slot: 0, bootOrder: 1 },
      { diskId: data, slot: 1, bootOrder: null },
    ]);
    await done(remove('instance', id));
    for (const disk of [boot, data]) expect(await view('disk', disk)).toMatchObject({ state: 'ready', instance: null });
  });

  test('is refused a disk that another has, twice the same, and an image beside a boot disk', async () => {
    const body = { name: 'second', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] };
    await machine('web');
    await expect(create('instance', { ...body, bootDisk: 'web' })).rejects.toMatchObject({ code: 'in_use' });
    await make('disk', { name: 'data', sizeGiB: 1 });
    for (const [more, pointer] of [
      [{ image: 'tiny', disks: ['data', 'data'] }, '/disks/1'],
      [{ image: 'tiny', bootDisk: 'data' }, '/bootDisk'],
      [{ bootDisk: 'data', diskGiB: 4 }, '/diskGiB'],
      [{}, '/image'],
    ] as const) {
      await expect(create('instance', { ...body, ...more }), pointer).rejects.toMatchObject({
        code: 'invalid',
        details: { errors: [{ pointer }] },
      });
    }
  });
});

test('a disk that could not be made takes no room and stands nowhere, however it is changed, until it is retried', async () => {
  platform.node.refuse = (row) => (row.kind === 'disk' ? { code: 'broken', message: 'No.' } : undefined);
  const change = await create('disk', { name: 'data', sizeGiB: 1 });
  await platform.ended(caller, change.jobId!).finally(() => {
    platform.node.refuse = () => undefined;
  });
  const { id } = change.body;
  await done(patch('disk', id, { sizeGiB: 4 }));
  expect(await view('disk', id)).toMatchObject({ state: 'failed', sizeGiB: 4 });
  const held = await sql`select resource_id from placement where resource_id = ${id}
    union all select resource_id from reservation where resource_id = ${id}`.execute(platform.db.operator);
  expect(held.rows).toEqual([]);
  await platform.jobs.retry(caller, change.jobId!);
  await expect.poll(async () => (await view('disk', id)).state, { timeout: 15_000 }).toBe('ready');
  expect(platform.node.machine.get(id)?.spec).toMatchObject({ sizeBytes: 4 * 2 ** 30 });
});
