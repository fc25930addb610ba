/** Who sees which image: global ones, a tenant's own, published ones; in lists, by id, by name, in events; and what withdrawing does. */
import { buffer } from 'node:stream/consumers';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import type { Caller } from '#libs/resources';
import { contentLab, globalImage, type Platform, startPlatform } from '#libs/testing';
import { placeholderContent } from './placeholder.js';

let platform: Platform;
let source: { url: string; sha256: string };
let owner: Caller;
let other: Caller;

beforeAll(async () => {
  source = (await contentLab()).serve(await buffer(placeholderContent()));
  platform = await startPlatform({ kinds });
});
afterAll(() => platform?.close());
beforeEach(async () => {
  owner = await platform.tenant();
  other = await platform.tenant();
  await sql`update tenant set display_name = 'Owner Ltd' where id = ${owner.actor.tenantId}`.execute(
    platform.db.operator,
  );
});

const kind = () => platform.registry.get('image');
const codeOf = (work: Promise<unknown>) =>
  work.then(
    () => 'done',
    (error: { code: string }) => error.code,
  );

async function image(caller: Caller, name: string, tags: Record<string, string> = {}): Promise<string> {
  const body = { name, tags, sourceUrl: source.url, sha256: source.sha256 };
  const created = await platform.pipeline.create(caller, kind(), body);
  await platform.done(caller, created);
  return created.body.id;
}

async function act(caller: Caller, id: string, action: string): Promise<void> {
  await platform.done(caller, await platform.pipeline.act(caller, kind(), id, action, {}));
}

const names = async (caller: Caller, query: Record<string, string> = {}) =>
  (await platform.reader.list(caller, kind(), query)).items.map(({ name }) => name).sort();

describe('a published image', () => {
  test('is seen by every tenant in lists and by id, with who published it, and by name only by its own', async () => {
    const id = await image(owner, 'base', { os: 'debian' });
    expect(await names(other)).not.toContain('base');
    expect(await codeOf(platform.reader.get(other, kind(), id))).toBe('not_found');
    await act(owner, id, 'publish');
    const seen = (await platform.reader.get(other, kind(), id)).body;
    expect(seen).toMatchObject({
      visibility: 'published',
      publisher: { id: owner.actor.tenantId, name: 'Owner Ltd' },
      sha256: source.sha256,
    });
    expect(await names(other, { tagSelector: 'os=debian' })).toContain('base');
    expect(await names(other, { tagSelector: 'os notin (debian)' })).not.toContain('base');
    expect(await names(other, { visibility: 'published' })).toContain('base');
    expect(await codeOf(platform.reader.get(other, kind(), 'base'))).toBe('not_found');
    expect((await platform.reader.get(owner, kind(), 'base')).body.id).toBe(id);
    await act(owner, id, 'withdraw');
    expect((await platform.reader.get(owner, kind(), id)).body).toMatchObject({
      visibility: 'private',
      publisher: null,
    });
    expect(await codeOf(platform.reader.get(other, kind(), id))).toBe('not_found');
    expect(await names(other, { tagSelector: 'os=debian' })).not.toContain('base');
  });

  test('tells others nothing of who made it, or of what went wrong with it', async () => {
    const id = await image(owner, 'quiet');
    await act(owner, id, 'publish');
    expect((await platform.reader.get(other, kind(), id)).body).toMatchObject({ createdBy: '', conditions: [] });
    const { items } = await platform.reader.list(other, kind(), { name: 'quiet' });
    expect(items).toMatchObject([{ id, createdBy: '', conditions: [] }]);
    expect((await platform.reader.get(owner, kind(), id)).body.createdBy).toBe(owner.actor.subject);
  });

  test('is changed by nobody else', async () => {
    const id = await image(owner, 'mine');
    await act(owner, id, 'publish');
    const { pipeline } = platform;
    expect(await codeOf(pipeline.update(other, kind(), id, { name: 'theirs' }))).toBe('forbidden');
    expect(await codeOf(pipeline.remove(other, kind(), id))).toBe('forbidden');
    for (const action of ['publish', 'withdraw']) {
      expect(await codeOf(pipeline.act(other, kind(), id, action, {}))).toBe('forbidden');
    }
    const rows = platform.db.tenantTransaction(other.actor.tenantId, async (tx) => {
      const changed = await sql`update image set os_info = '{"by":"other"}' where id = ${id}`.execute(tx);
      const renamed = await sql`update resource set name = 'theirs' where id = ${id}`.execute(tx);
      const untagged = await sql`delete from resource_tag where resource_id = ${id}`.execute(tx);
      return [changed, renamed, untagged].map(({ numAffectedRows }) => Number(numAffectedRows));
    });
    expect(await rows).toEqual([0, 0, 0]);
  });

  test('keeps its name free in other tenants, and is not counted as theirs', async () => {
    const id = await image(owner, 'shared');
    await act(owner, id, 'publish');
    const own = await image(other, 'shared');
    expect((await platform.reader.get(other, kind(), 'shared')).body.id).toBe(own);
    expect(await names(other, { name: 'shared' })).toEqual(['shared', 'shared']);
  });

  test('has events in its own tenant only', async () => {
    const id = await image(owner, 'told');
    await act(owner, id, 'publish');
    const of = async (caller: Caller) =>
      (await platform.events.read(caller.actor.tenantId, 0, { resource: id })).events.map(({ type }) => type);
    await expect.poll(() => of(owner)).toContain('resource.updated');
    expect(await of(other)).toEqual([]);
  });

  test('that goes with its tenant’s rename keeps the name that it was published under', async () => {
    const id = await image(owner, 'named');
    await act(owner, id, 'publish');
    await sql`update tenant set display_name = 'Renamed' where id = ${owner.actor.tenantId}`.execute(
      platform.db.operator,
    );
    await platform.done(owner, await platform.pipeline.update(owner, kind(), id, { tags: { a: 'b' } }));
    expect((await platform.reader.get(other, kind(), id)).body).toMatchObject({
      publisher: { name: 'Owner Ltd' },
      tags: { a: 'b' },
    });
    expect(await names(other, { tagSelector: 'a=b' })).toContain('named');
  });
});

describe('an image that cannot be shown', () => {
  test('is one without content', async () => {
    const created = await platform.pipeline.create(owner, kind(), { name: 'empty' });
    expect(await codeOf(platform.pipeline.act(owner, kind(), created.body.id, 'publish', {}))).toBe('busy');
    await platform.jobs.cancel(owner, created.jobId!);
  });
});

describe('a global image', () => {
  test('is read by every tenant, by name too, after its own; and changed by none', async () => {
    const id = await globalImage(platform, 'everybodys');
    expect((await platform.reader.get(owner, kind(), 'everybodys')).body).toMatchObject({
      id,
      visibility: 'global',
      publisher: null,
    });
    expect(await names(owner)).toContain('everybodys');
    const { pipeline } = platform;
    expect(await codeOf(pipeline.update(owner, kind(), id, { tags: {} }))).toBe('forbidden');
    expect(await codeOf(pipeline.remove(owner, kind(), 'everybodys'))).toBe('forbidden');
    expect(await codeOf(pipeline.act(owner, kind(), id, 'publish', {}))).toBe('forbidden');
    const own = await image(owner, 'everybodys');
    expect((await platform.reader.get(owner, kind(), 'everybodys')).body.id).toBe(own);
    expect((await platform.reader.get(other, kind(), 'everybodys')).body.id).toBe(id);
  });
});
