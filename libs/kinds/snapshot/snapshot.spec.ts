/** Snapshots with the disks and machines that they are about: taken, restored, made disks of; refused when that would harm. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import { globalImage, type Platform, startPlatform, TenantUser } from '#libs/testing';

let platform: Platform;
let user: TenantUser;

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
});
afterAll(() => platform?.close());
beforeEach(async () => {
  user = await TenantUser.inNewTenant(platform);
  await user.machine('web');
});

test('of a disk in use is taken, and a disk is made from it that does not need it', async () => {
  await user.done(user.create('snapshot', { name: 'before', disk: 'web' }));
  expect(await user.view('snapshot', 'before')).toMatchObject({ sizeBytes: 4096, virtualSizeBytes: 2 ** 30 });
  await user.done(user.create('disk', { name: 'copy', snapshot: 'before' }));
  const copy = await user.view('disk', 'copy');
  expect(copy).toMatchObject({ sizeGiB: 1, snapshot: (await user.view('snapshot', 'before')).id });
  expect(copy.image).toBe((await user.view('disk', 'web')).image);
  await user.done(platform.pipeline.remove(user.caller, user.kind('snapshot'), 'before'));
  const told = await sql<{ snapshot: unknown }>`
    select spec -> 'snapshot' as snapshot from placement where resource_id = ${copy.id}`.execute(platform.db.operator);
  expect(told.rows[0]!.snapshot).toMatchObject({ diskId: (await user.view('disk', 'web')).id });
  // Told anew, its node is not asked for the snapshot that is gone.
  await user.done(platform.pipeline.update(user.caller, user.kind('disk'), 'copy', { sizeGiB: 2 }));
  const again = await sql<{ snapshot: unknown }>`
    select spec -> 'snapshot' as snapshot from placement where resource_id = ${copy.id}`.execute(platform.db.operator);
  expect(again.rows[0]!.snapshot).toBeNull();
});

test('is restored only while the machine is off, and keeps it off meanwhile', async () => {
  await user.done(user.create('snapshot', { name: 'before', disk: 'web' }));
  await expect(user.act('snapshot', 'before', 'restore')).rejects.toMatchObject({
    code: 'not_ready',
    details: { blockers: [{ kind: 'instance', name: 'web' }] },
  });
  await user.done(user.act('instance', 'web', 'stop'));
  platform.node.isAway = true;
  const restore = await user.act('snapshot', 'before', 'restore');
  await expect(user.act('instance', 'web', 'start')).rejects.toMatchObject({ code: 'busy' });
  await expect(user.create('snapshot', { name: 'second', disk: 'web' })).rejects.toMatchObject({ code: 'busy' });
  platform.node.isAway = false;
  await platform.done(user.caller, restore);
  expect(platform.node.deeds).toContain('restore');
  await user.done(user.act('instance', 'web', 'start'));
  expect(await user.view('instance', 'web')).toMatchObject({ powerState: 'running' });
});

test('of a disk that is being deleted, or is not there yet, is refused', async () => {
  await user.done(user.create('disk', { name: 'data', sizeGiB: 1 }));
  platform.node.isAway = true;
  try {
    await user.create('disk', { name: 'slow', sizeGiB: 1 });
    await platform.pipeline.remove(user.caller, user.kind('disk'), 'data');
    for (const disk of ['data', 'slow']) {
      await expect(user.create('snapshot', { name: 'late', disk }), disk).rejects.toMatchObject({
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
  const change = await user.create('snapshot', { name: 'late', disk: 'web' });
  const job = await platform.ended(user.caller, change.jobId!);
  platform.node.refuse = () => undefined;
  expect(job).toMatchObject({
    state: 'failed',
    error: { detail: expect.stringContaining('full'), reason: 'disk_full' },
  });
  expect(await user.view('disk', 'web')).toMatchObject({ state: 'ready' });
  await user.done(platform.pipeline.remove(user.caller, user.kind('snapshot'), 'late'));
});

test.each([
  ['a fraction', 1.5],
  ['beyond all sizes', 1e300],
  ['below nothing', -1],
  ['no number', 'many'],
])('whose size the node gives as %s is taken all the same, of unknown size', async (_, sizeBytes) => {
  platform.node.lie = (row) => (row.kind === 'snapshot' ? { sizeBytes, virtualSizeBytes: 4096 } : undefined);
  await user.done(user.create('snapshot', { name: 'odd', disk: 'web' })).finally(() => {
    platform.node.lie = () => undefined;
  });
  expect(await user.view('snapshot', 'odd')).toMatchObject({ state: 'ready', sizeBytes: null });
});

test('is in the way of its disk’s deletion, and named', async () => {
  await user.done(user.create('disk', { name: 'data', sizeGiB: 1 }));
  await user.done(user.create('snapshot', { name: 'before', disk: 'data' }));
  await expect(platform.pipeline.remove(user.caller, user.kind('disk'), 'data')).rejects.toMatchObject({
    code: 'in_use',
    details: { blockers: [{ kind: 'snapshot', name: 'before', relation: 'is of' }] },
  });
});
