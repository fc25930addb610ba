/** Disks that were deleted: had back, purged, expired; their names are free and their room is not. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import { type Caller, inTransaction } from '#libs/resources';
import { globalImage, type Platform, startPlatform } from '#libs/testing';
import { lockDeleted, purgeDeleted, purgeExpired, restoreDeleted } from './deleted.js';

let platform: Platform;
let caller: Caller;

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
});
afterAll(() => platform?.close());
beforeEach(async () => {
  caller = await platform.tenant();
});

async function deletedDisk(name: string): Promise<string> {
  const disk = platform.registry.get('disk');
  const change = await platform.pipeline.create(caller, disk, { name, image: 'tiny', sizeGiB: 3, tags: { of: 'me' } });
  await platform.done(caller, change);
  await platform.done(caller, await platform.pipeline.remove(caller, disk, name));
  await expect(platform.reader.get(caller, disk, change.body.id)).rejects.toMatchObject({ code: 'not_found' });
  return change.body.id;
}

const tenantId = () => caller.actor.tenantId;

async function left(id: string) {
  await platform.node.look();
  const result = await sql<{ present: number; room: number; kept: number }>`
    select (select count(*) from placement where resource_id = ${id} and present)::int as present,
      (select coalesce(sum(disk_gib), 0) from reservation where resource_id = ${id})::int as room,
      (select count(*) from deleted_disk where id = ${id})::int as kept`.execute(platform.db.operator);
  return result.rows[0]!;
}

const restore = (id: string, name: string) =>
  platform.db.tenantTransaction(tenantId(), async (tx) => {
    const row = await lockDeleted(tx, { tenantId: tenantId(), id });
    return restoreDeleted(tx, row!, name);
  });

test('what it holds stays where it was, and comes back under its id', async () => {
  const id = await deletedDisk('data');
  expect(await left(id)).toEqual({ present: 1, room: 3, kept: 1 });
  await restore(id, 'data');
  const { body } = await platform.reader.get(caller, platform.registry.get('disk'), 'data');
  expect(body).toMatchObject({ id, state: 'ready', sizeGiB: 3, tags: { of: 'me' }, instance: null });
  expect(await left(id)).toEqual({ present: 1, room: 3, kept: 0 });
  // It is a disk like any other again.
  const disk = platform.registry.get('disk');
  await platform.done(caller, await platform.pipeline.update(caller, disk, id, { sizeGiB: 4 }));
  expect((await left(id)).room).toBe(4);
});

test('its name is free meanwhile, and not to be had back when somebody has taken it', async () => {
  const id = await deletedDisk('data');
  const disk = platform.registry.get('disk');
  await platform.done(caller, await platform.pipeline.create(caller, disk, { name: 'data', sizeGiB: 1 }));
  await expect(restore(id, 'data')).rejects.toMatchObject({ code: 'name_taken' });
  expect((await left(id)).kept).toBe(1);
  await restore(id, 'data-2');
  expect((await platform.reader.get(caller, disk, 'data-2')).body.id).toBe(id);
});

test('purged or expired, it is gone from its node, and its room is free', async () => {
  const [purged, expired, young] = [await deletedDisk('a'), await deletedDisk('b'), await deletedDisk('c')];
  await platform.db.tenantTransaction(tenantId(), (tx) => purgeDeleted(tx, { tenantId: tenantId(), id: purged }));
  await sql`update deleted_disk set expires_at = now() - interval '1 second' where id = ${expired}`.execute(
    platform.db.operator,
  );
  await purgeExpired(platform.db, new AbortController().signal);
  for (const id of [purged, expired]) {
    await expect.poll(() => left(id)).toEqual({ present: 0, room: 0, kept: 0 });
  }
  expect(await left(young)).toEqual({ present: 1, room: 3, kept: 1 });
});

test('another tenant neither sees nor gets it', async () => {
  const id = await deletedDisk('data');
  const other = await platform.tenant();
  const found = await platform.db.tenantTransaction(other.actor.tenantId, async (tx) => [
    await lockDeleted(tx, { tenantId: other.actor.tenantId, id }),
    await lockDeleted(tx, { tenantId: tenantId(), id }),
    await inTransaction(tx, tenantId()).rows(sql`select 1 from deleted_disk`.compile(tx)),
  ]);
  expect(found).toEqual([undefined, undefined, []]);
});
