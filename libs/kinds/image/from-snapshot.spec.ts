/** Images made from snapshots: the node is asked once a try, what it brings is checked, and the snapshot is held meanwhile. */
import { createHash, randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { kinds } from '#libs/kinds';
import { recordDeed } from '#libs/nodes';
import type { Caller, ChangeResult } from '#libs/resources';
import { DeedOutcome } from '#libs/rpc';
import { type ContentLab, contentLab, globalImage, type Platform, startPlatform } from '#libs/testing';

let platform: Platform;
let lab: ContentLab;
let caller: Caller;
let snapshot: string;

const content = randomBytes(8192);
const sha256 = createHash('sha256').update(content).digest('hex');

beforeAll(async () => {
  lab = await contentLab();
  platform = await startPlatform({ kinds });
  await globalImage(platform);
});
afterAll(() => platform?.close());
beforeEach(async () => {
  caller = await platform.tenant();
  platform.node.isAway = false;
  await make('disk', { name: 'data', sizeGiB: 1 });
  snapshot = await make('snapshot', { name: 'before', disk: 'data' });
  platform.node.isAway = true;
});

const kind = (name = 'image') => platform.registry.get(name);

async function make(kindName: string, body: object): Promise<string> {
  const created = await platform.pipeline.create(caller, kind(kindName), body);
  await platform.done(caller, created);
  return created.body.id;
}

/** The deed of the try that is under way, as the node would get it. */
async function askedDeed(image: ChangeResult): Promise<{ id: string; arguments: { operationId: string } }> {
  const look = () =>
    sql<{ id: string; arguments: { operationId: string }; resource_id: string }>`
      select d.id, d.arguments, d.resource_id from deed d join image i on i.operation_id = d.id
      where i.id = ${image.body.id} and d.verb = 'export' and d.state = 'asked'`.execute(platform.db.operator);
  await expect.poll(async () => (await look()).rows.length).toBe(1);
  const [deed] = (await look()).rows;
  expect(deed).toMatchObject({ resource_id: snapshot, arguments: { operationId: deed!.id } });
  return deed!;
}

/** What the node says at last; it is heard as over its stream, by which the image's job is woken. */
async function answer(deed: string, failure?: { code: string; message: string }): Promise<void> {
  const { rows } = await sql<{
    session: number;
  }>`select session from node_session where node_id = ${platform.node.id}`.execute(platform.db.operator);
  const session = { nodeId: platform.node.id, session: rows[0]!.session } as Parameters<typeof recordDeed>[1];
  const outcome = failure ? DeedOutcome.DEED_OUTCOME_FAILED : DeedOutcome.DEED_OUTCOME_DONE;
  await recordDeed(platform.db, session, { operationId: deed, outcome, failure, resultJson: '{}' });
}

const bring = (deed: string) => lab.contents.store.parts.write(deed, 0, [content] as never, { maxBytes: 1e6 });
const create = (body: object = {}) =>
  platform.pipeline.create(caller, kind(), { name: 'copy', snapshot: 'before', ...body });

describe('an image from a snapshot', () => {
  test('is what the node brought, and holds the snapshot only until then', async () => {
    const image = await create();
    const deed = await askedDeed(image);
    const removal = platform.pipeline.remove(caller, kind('snapshot'), snapshot);
    await expect(removal).rejects.toMatchObject({
      code: 'in_use',
      details: { blockers: [{ kind: 'image', id: image.body.id }] },
    });
    await bring(deed.id);
    await answer(deed.id);
    expect((await platform.ended(caller, image.jobId!)).state).toBe('succeeded');
    expect((await platform.reader.get(caller, kind(), 'copy')).body).toMatchObject({
      ...{
        state: 'ready',
        source: 'snapshot',
        snapshot,
        sha256,
        sizeBytes: 8192,
        format: 'raw',
        visibility: 'private',
      },
    });
    await platform.pipeline.remove(caller, kind('snapshot'), snapshot, { dryRun: true });
    await platform.done(caller, await platform.pipeline.act(caller, kind(), 'copy', 'publish', {}));
    const seen = (await platform.reader.get(await platform.tenant(), kind(), image.body.id)).body;
    expect(seen, 'others are told of nothing else of the tenant’s').toMatchObject({
      source: 'snapshot',
      snapshot: null,
    });
  });

  test('of a node that cannot fails with its reason, and a retry asks anew', async () => {
    const image = await create();
    const first = await askedDeed(image);
    await bring(first.id);
    await answer(first.id, { code: 'disk_full', message: 'No room for the copy.' });
    expect(await platform.ended(caller, image.jobId!)).toMatchObject({
      state: 'failed',
      error: { code: 'job_failed', detail: 'No room for the copy.', reason: 'disk_full' },
    });
    expect(await lab.contents.store.parts.size(first.id)).toBe(0);
    await platform.jobs.retry(caller, image.jobId!);
    const second = await askedDeed(image);
    expect(second.id).not.toBe(first.id);
    await bring(second.id);
    await answer(second.id);
    expect((await platform.ended(caller, image.jobId!)).state).toBe('succeeded');
  });

  test('of a node that says so and brings nothing fails', async () => {
    const image = await create();
    const deed = await askedDeed(image);
    await answer(deed.id);
    expect(await platform.ended(caller, image.jobId!)).toMatchObject({
      state: 'failed',
      error: { code: 'job_failed' },
    });
  });

  test('that is cancelled asks no more and leaves nothing', async () => {
    const image = await create();
    const deed = await askedDeed(image);
    await bring(deed.id);
    await platform.jobs.cancel(caller, image.jobId!);
    expect((await platform.ended(caller, image.jobId!)).state).toBe('cancelled');
    expect(await lab.contents.store.parts.size(deed.id)).toBe(0);
    const left = await sql`select 1 from deed where id = ${deed.id}`.execute(platform.db.operator);
    expect(left.rows).toEqual([]);
    await platform.pipeline.remove(caller, kind('snapshot'), snapshot, { dryRun: true });
  });

  test('that is not the tenant’s is as unknown as none; what it would be is not announced', async () => {
    const stranger = await platform.tenant();
    const pointers = (work: Promise<unknown>) =>
      work.then(
        () => [],
        (error: { details: { errors: { pointer: string; code: string }[] } }) =>
          error.details.errors.map(({ pointer, code }) => `${pointer} ${code}`),
      );
    for (const reference of [snapshot, 'before', 'absent', 'no name']) {
      const asked = platform.pipeline.create(stranger, kind(), { name: 'copy', snapshot: reference });
      expect(await pointers(asked)).toEqual(['/snapshot not_found']);
    }
    expect(await pointers(create({ sha256, sizeBytes: 5, format: 'raw' }))).toEqual([
      '/sha256 invalid_value',
      '/sizeBytes invalid_value',
      '/format invalid_value',
    ]);
  });
});
