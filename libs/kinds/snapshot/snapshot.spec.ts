/** Snapshots with the disks and machines that they are about: taken, restored, made disks of; refused when that would harm. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
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
  caller = await platform.tenant();
  await done(create('network', { name: 'lan', subnet: '10.80.0.0/24' }));
  const body = { name: 'web', image: 'tiny', vcpus: 1, memoryMiB: 128, interfaces: [{ network: 'lan' }] };
  await done(create('instance', body));
});

const kind = (name: string) => platform.registry.get(name);
const create = (name: string, body: object) => platform.pipeline.create(caller, kind(name), body);
const act = (name: string, id: string, action: string, body: object = {}) =>
  platform.pipeline.act(caller, kind(name), id, action, body);
const done = async (change: Promise<ChangeResult>) => platform.done(caller, await change);
const view = async (name: string, id: string) => (await platform.reader.get(caller, kind(name), id)).body;

test('of a disk in use is taken, and a disk is made from it that does not need it', async () => {
  await done(create('snapshot', { name: 'before', disk: 'web' }));
  expect(await view('snapshot', 'before')).toMatchObject({ sizeBytes: 4096, virtualSizeBytes: 2 ** 30 });
  await done(create('disk', { name: 'copy', snapshot: 'before' }));
  const copy = await view('disk', 'copy');
  expect(copy).toMatchObject({ sizeGiB: 1, snapshot: (await view('snapshot', 'before')).id });
  expect(copy.image).toBe((await view('disk', 'web')).image);
  await done(platform.pipeline.remove(caller, kind('snapshot'), 'before'));
  const told = await sql<{ snapshot: unknown }>`
    select spec -> 'snapshot' as snapshot from placement where resource_id = ${copy.id}`.execute(platform.db.operator);
  expect(told.rows[0]!.snapshot).toMatchObject({ diskId: (await view('disk', 'web')).id });
  // Told anew, its node is not asked for the snapshot that is gone.
  await done(platform.pipeline.update(caller, kind('disk'), 'copy', { sizeGiB: 2 }));
  const again = await sql<{ snapshot: unknown }>`
    select spec -> 'snapshot' as snapshot from placement where resource_id = ${copy.id}`.execute(platform.db.operator);
  expect(again.rows[0]!.snapshot).toBeNull();
});

test('is restored only while the machine is off, and keeps it off meanwhile', async () => {
  await done(create('snapshot', { name: 'before', disk: 'web' }));
  await expect(act('snapshot', 'before', 'restore')).rejects.toMatchObject({
    code: 'not_ready',
    details: { blockers: [{ kind: 'instance', name: 'web' }] },
  });
  await done(act('instance', 'web', 'stop'));
  platform.node.isAway = true;
  const restore = await act('snapshot', 'before', 'restore');
  await expect(act('instance', 'web', 'start')).rejects.toMatchObject({ code: 'busy' });
  await expect(create('snapshot', { name: 'second', disk: 'web' })).rejects.toMatchObject({ code: 'busy' });
  platform.node.isAway = false;
  await platform.done(caller, restore);
  expect(platform.node.deeds).toContain('restore');
  await done(act('instance', 'web', 'start'));
  expect(await view('instance', 'web')).toMatchObject({ powerState: 'running' });
});

test('of a disk that is being deleted, or is not there yet, is refused', async () => {
  await done(create('disk', { name: 'data', sizeGiB: 1 }));
  platform.node.isAway = true;
  try {
    await create('disk', { name: 'slow', sizeGiB: 1 });
    await platform.pipeline.remove(caller, kind('disk'), 'data');
    for (const disk of ['data', 'slow']) {
      await expect(create('snapshot', { name: 'late', disk }), disk).rejects.toMatchObject({
        code: expect.stringMatching(/^(not_ready|invalid)$/),
      });
    }
  } finally {
    platform.node.isAway = false;
  }
});

test('that the node has no room for fails with the reason, and leaves nothing', async () => {
  platform.node.refuse = (row) =>
    row.kind === 'snapshot' ? { code: 'disk_full', message: 'The disk of the node is full.' } : undefined;
  const change = await create('snapshot', { name: 'late', disk: 'web' });
  const job = await platform.ended(caller, change.jobId!);
  platform.node.refuse = () => undefined;
  expect(job).toMatchObject({
    state: 'failed',
    error: { detail: expect.stringContaining('full'), reason: 'disk_full' },
  });
  expect(await view('disk', 'web')).toMatchObject({ state: 'ready' });
  await done(platform.pipeline.remove(caller, kind('snapshot'), 'late'));
});

test.each([
  ['a fraction', 1.5],
  ['beyond all sizes', 1e300],
  ['below nothing', -1],
  ['no number', 'many'],
])('whose size the node gives as %s is taken all the same, of unknown size', async (_, sizeBytes) => {
  platform.node.lie = (row) => (row.kind === 'snapshot' ? { sizeBytes, virtualSizeBytes: 4096 } : undefined);
  await done(create('snapshot', { name: 'odd', disk: 'web' })).finally(() => {
    platform.node.lie = () => undefined;
  });
  expect(await view('snapshot', 'odd')).toMatchObject({ state: 'ready', sizeBytes: null });
});

test('is in the way of its disk’s deletion, and named', async () => {
  await done(create('disk', { name: 'data', sizeGiB: 1 }));
  await done(create('snapshot', { name: 'before', disk: 'data' }));
  await expect(platform.pipeline.remove(caller, kind('disk'), 'data')).rejects.toMatchObject({
    code: 'in_use',
    details: { blockers: [{ kind: 'snapshot', name: 'before', relation: 'is of' }] },
  });
});
