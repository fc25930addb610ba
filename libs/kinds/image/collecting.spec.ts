/** Contents go when nothing names them, and never before: images of any tenant, disks, disks that can be had back, races. */
import { randomBytes } from 'node:crypto';
import { utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { kinds } from '#libs/kinds';
import type { Caller } from '#libs/resources';
import { type ContentLab, contentLab, gate, type Platform, startPlatform } from '#libs/testing';
import { collectContents, collectParts, holdLentContent, removeContentIfUnused } from './index.js';

let platform: Platform;
let lab: ContentLab;
let owner: Caller;

beforeAll(async () => {
  lab = await contentLab();
  platform = await startPlatform({ kinds });
});
afterAll(() => platform?.close());
beforeEach(async () => {
  owner = await platform.tenant();
});

const kind = () => platform.registry.get('image');
const store = () => lab.contents.store;
const collect = async (graceMs = 0) =>
  (await collectContents(platform.db, store(), graceMs)).map(({ sha256 }) => sha256);

async function image(
  caller = owner,
  content = randomBytes(2048),
): Promise<{ id: string; sha256: string; tenantId: string }> {
  const { url, sha256 } = lab.serve(content);
  const name = `i-${newId().slice(-12)}`;
  const created = await platform.pipeline.create(caller, kind(), { name, sourceUrl: url, sha256 });
  await platform.done(caller, created);
  return { id: created.body.id, sha256, tenantId: caller.actor.tenantId };
}

async function remove(caller: Caller, id: string): Promise<void> {
  await platform.done(caller, await platform.pipeline.remove(caller, kind(), id));
}

describe('a content', () => {
  test('goes with the last image that has it, of whichever tenant', async () => {
    const content = randomBytes(2048);
    const other = await platform.tenant();
    const [one, two] = [await image(owner, content), await image(other, content)];
    expect(two.sha256).toBe(one.sha256);
    await remove(owner, one.id);
    expect(await collect()).not.toContain(one.sha256);
    await remove(other, two.id);
    expect(await collect()).toContain(one.sha256);
    expect(await store().has(one.sha256)).toBe(false);
  });

  test('stays while a disk builds on it, or one that can be had back, though the image was withdrawn and removed', async () => {
    const { id, sha256 } = await image();
    const tenant = (await platform.tenant()).actor.tenantId;
    const node = platform.node.id;
    const disk = newId();
    await sql`insert into resource (tenant_id, id, kind, name, state, created_by)
      values (${tenant}, ${disk}, 'disk', 'lent', 'ready', 'x')`.execute(platform.db.operator);
    await sql`insert into disk (tenant_id, id, size_gib, image_tenant_id, image_id, image_sha256, image_format,
        image_size_bytes, image_virtual_size_bytes)
      values (${tenant}, ${disk}, 1, ${owner.actor.tenantId}, ${id}, ${sha256}, 'raw', 2048, 2048)`.execute(
      platform.db.operator,
    );
    await remove(owner, id);
    expect(await collect()).not.toContain(sha256);
    await sql`insert into deleted_disk (tenant_id, id, name, tags, created_by, created_at, size_gib, image_sha256, node_id, expires_at)
      values (${tenant}, ${disk}, 'lent', '{}', 'x', now(), 1, ${sha256}, ${node}, now() + interval '1 day')`.execute(
      platform.db.operator,
    );
    await sql`delete from resource where id = ${disk}`.execute(platform.db.operator);
    expect(await collect()).not.toContain(sha256);
    await sql`delete from deleted_disk where id = ${disk}`.execute(platform.db.operator);
    expect(await collect()).toContain(sha256);
  });

  test('that is young stays, also when an old one like it was taken in again just now', async () => {
    const { id, sha256 } = await image();
    await remove(owner, id);
    expect(await collect(60_000)).not.toContain(sha256);
    const path = join(lab.dir, sha256.slice(0, 2), sha256.slice(2, 4), sha256);
    await utimes(path, 0, 0);
    expect(await collect(60_000)).toContain(sha256);
  });

  test('of another tenant’s image is held from the moment that something is made of it', async () => {
    const lent = await image();
    const borrower = (await platform.tenant()).actor.tenantId;
    await platform.done(owner, await platform.pipeline.act(owner, kind(), lent.id, 'publish', {}));
    const held = gate();
    const disk = newId();
    const making = platform.db.tenantTransaction(borrower, async (tx) => {
      await holdLentContent(tx, borrower, lent);
      await held.pass();
      await sql`insert into resource (tenant_id, id, kind, name, state, created_by)
        values (${borrower}, ${disk}, 'disk', 'making', 'pending', 'x')`.execute(tx);
      await sql`insert into disk (tenant_id, id, size_gib, image_tenant_id, image_id, image_sha256)
        values (${borrower}, ${disk}, 1, ${lent.tenantId}, ${lent.id}, ${lent.sha256})`.execute(tx);
    });
    await held.arrived;
    await remove(owner, lent.id);
    const collecting = platform.db.operatorTransaction((tx) => removeContentIfUnused(tx, store(), lent.sha256));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(await store().has(lent.sha256)).toBe(true);
    held.open();
    await making;
    expect(await collecting).toBe(false);
    expect(await store().has(lent.sha256)).toBe(true);
  });

  test('of an image that was withdrawn a moment before cannot be borrowed any more', async () => {
    const lent = await image();
    const borrower = (await platform.tenant()).actor.tenantId;
    const borrow = () => platform.db.tenantTransaction(borrower, (tx) => holdLentContent(tx, borrower, lent));
    await expect(borrow()).rejects.toMatchObject({ code: 'conflict' });
    await platform.done(owner, await platform.pipeline.act(owner, kind(), lent.id, 'publish', {}));
    await borrow();
    await platform.done(owner, await platform.pipeline.act(owner, kind(), lent.id, 'withdraw', {}));
    await expect(borrow()).rejects.toMatchObject({ code: 'conflict' });
  });
});

describe('a part', () => {
  test('goes when no image waits for it any more', async () => {
    const created = await platform.pipeline.create(owner, kind(), { name: 'waiting' });
    const { rows } = await sql<{ operation: string }>`select operation_id as operation from image
      where id = ${created.body.id}`.execute(platform.db.operator);
    const [awaited, left] = [rows[0]!.operation, newId()];
    for (const id of [awaited, left]) await store().parts.write(id, 0, [Buffer.alloc(10)] as never, { maxBytes: 10 });
    await collectParts(platform.db, store(), 0);
    expect(await store().parts.size(awaited)).toBe(10);
    expect(await store().parts.size(left)).toBe(0);
    // What its step has opened, its undo throws away.
    const steps = async () => ((await platform.jobs.get(owner, created.jobId!)).steps as unknown[]).length;
    await expect.poll(steps, { timeout: 20_000 }).toBeGreaterThan(0);
    await platform.jobs.cancel(owner, created.jobId!);
    await platform.ended(owner, created.jobId!);
    expect(await store().parts.size(awaited)).toBe(0);
  });
});
