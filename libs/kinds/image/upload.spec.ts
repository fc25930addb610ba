/** Uploads below HTTP: pieces, interruptions, two writers, cancels, checks of what has come; on a real database and folder. */
import { createHash, randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { RhyzomeError } from '#libs/core';
import { kinds } from '#libs/kinds';
import type { Caller, ChangeResult } from '#libs/resources';
import { type ContentLab, callerIn, contentLab, gate, type Platform, startPlatform } from '#libs/testing';
import { ImageUploads, type Piece } from './upload.js';

let platform: Platform;
let lab: ContentLab;
let uploads: ImageUploads;
let caller: Caller;

const bytes = randomBytes(300_000);
const sha256 = createHash('sha256').update(bytes).digest('hex');
const never = new AbortController().signal;

beforeAll(async () => {
  lab = await contentLab();
  platform = await startPlatform({ kinds });
  uploads = new ImageUploads(platform.db, platform.registry.get('image'));
});
afterAll(() => platform?.close());
beforeEach(async () => {
  caller = await platform.tenant();
});

const kind = () => platform.registry.get('image');
const create = (body: object = {}): Promise<ChangeResult> =>
  platform.pipeline.create(caller, kind(), { name: 'own', ...body });
const read = async (id: string) => (await platform.reader.get(caller, kind(), id)).body as Record<string, any>;

async function* chunks(...pieces: (Buffer | Error)[]) {
  for (const piece of pieces) {
    if (piece instanceof Error) throw piece;
    yield piece;
  }
}

const whole = (length?: number): Piece => ({ offset: undefined, length, total: length });
const piece = (first: number, end: number, total = bytes.length): Piece => ({
  offset: first,
  length: end - first,
  total,
});
const put = (id: string, what: Piece, ...body: (Buffer | Error)[]) =>
  uploads.receive(caller, id, what, chunks(...body), never);
const refusal = (work: Promise<unknown>): Promise<RhyzomeError> =>
  work.then(
    (value) => {
      throw new Error(`not refused: ${JSON.stringify(value)}`);
    },
    (error: RhyzomeError) => error,
  );
/** Names the part of the try that is under way. */
async function operationOf(id: string): Promise<string> {
  const { rows } = await sql<{ operation: string }>`
    select operation_id as operation from image_upload where image_id = ${id}`.execute(platform.db.operator);
  return rows[0]!.operation;
}

const waiting = (jobId: string) =>
  expect.poll(async () => (await platform.jobs.get(caller, jobId)).state, { timeout: 5_000 }).toBe('waiting');

describe('an upload', () => {
  test('in pieces, interrupted in the middle of one, becomes an image that is what was sent', async () => {
    const created = await create({ sha256: sha256.toUpperCase(), sizeBytes: bytes.length, format: 'raw' });
    const { id } = created.body;
    await waiting(created.jobId!);
    expect(await platform.jobs.get(caller, created.jobId!)).toMatchObject({
      cancellable: true,
      message: expect.stringContaining(`/v1/images/${id}/content`),
    });
    expect(await read(id)).toMatchObject({ state: 'provisioning', sha256: null, sizeBytes: null, source: 'upload' });
    expect(await put('own', piece(0, 100_000), bytes.subarray(0, 100_000))).toMatchObject({
      state: { offset: 100_000, length: 300_000, isComplete: false },
    });
    const broken = put(id, piece(100_000, 300_000), bytes.subarray(100_000, 180_000), new Error('gone'));
    expect((await refusal(broken)).message).toBe('gone');
    expect(await uploads.state(caller, id)).toEqual({ offset: 180_000, length: 300_000, isComplete: false });
    const done = await put(id, piece(180_000, 300_000), bytes.subarray(180_000));
    expect(done.state).toEqual({ offset: 300_000, length: 300_000, isComplete: true });
    expect(await platform.ended(caller, created.jobId!)).toMatchObject({ state: 'succeeded', progress: 100 });
    expect(await read(id)).toMatchObject({
      ...{ state: 'ready', format: 'raw', sizeBytes: 300_000, virtualSizeBytes: 300_032, sha256 },
      ...{ visibility: 'private', publisher: null },
    });
    expect(await uploads.state(caller, id)).toEqual({ offset: 300_000, length: 300_000, isComplete: true });
    expect((await refusal(put(id, whole(1), Buffer.from('x')))).code).toBe('conflict');
  });

  test('as a whole begins anew, of known length or not', async () => {
    const one = await create();
    await put(one.body.id, piece(0, 50_000), Buffer.alloc(50_000, 'x'));
    await put(one.body.id, whole(bytes.length), bytes);
    await platform.done(caller, one);
    const two = await create({ name: 'chunked' });
    await put(two.body.id, whole(), bytes.subarray(0, 7), bytes.subarray(7));
    await platform.done(caller, two);
    for (const { body } of [one, two]) expect((await read(body.id)).sha256).toBe(sha256);
  });

  test('begins where the last piece ended, and says where that is', async () => {
    const { body } = await create();
    await put(body.id, piece(0, 10), bytes.subarray(0, 10));
    for (const first of [0, 9, 11, 200_000]) {
      const error = await refusal(put(body.id, piece(first, first + 5), bytes.subarray(first, first + 5)));
      expect(error).toMatchObject({
        code: 'wrong_offset',
        details: { extensions: { uploadOffset: 10, uploadLength: 300_000 } },
      });
    }
    expect(await uploads.state(caller, body.id)).toMatchObject({ offset: 10 });
  });

  test('is not held to what was announced with a piece that was refused', async () => {
    const { body } = await create();
    expect((await refusal(put(body.id, piece(5, 10, 10), bytes.subarray(5, 10)))).code).toBe('wrong_offset');
    const { state } = await put(body.id, piece(0, 10, 20), bytes.subarray(0, 10));
    expect(state).toEqual({ offset: 10, length: 20, isComplete: false });
  });

  test('with more bytes than announced is refused, and what was there before stays', async () => {
    const announced = await create({ sizeBytes: 100 });
    const { id } = announced.body;
    expect((await refusal(put(id, whole(101), bytes.subarray(0, 101)))).code).toBe('invalid');
    expect((await refusal(put(id, whole(), bytes.subarray(0, 101)))).code).toBe('invalid');
    expect((await refusal(put(id, piece(0, 50, 200), bytes.subarray(0, 50)))).code).toBe('invalid');
    await put(id, piece(0, 50, 100), bytes.subarray(0, 50));
    expect((await refusal(put(id, piece(50, 60, 100), bytes.subarray(50, 70)))).code).toBe('invalid');
    expect((await refusal(put(id, piece(50, 101, 101), bytes.subarray(50, 101)))).code).toBe('invalid');
    expect(await uploads.state(caller, id)).toMatchObject({ offset: 50, length: 100 });
    await put(id, piece(50, 100, 100), bytes.subarray(50, 100));
    await platform.done(caller, announced);
    expect(await read(id)).toMatchObject({ sizeBytes: 100 });
  });

  test('with fewer bytes than announced is told so, and goes on from there', async () => {
    const created = await create({ sizeBytes: 100 });
    const { id } = created.body;
    const short = await refusal(put(id, whole(), bytes.subarray(0, 60)));
    expect(short).toMatchObject({ code: 'invalid', details: { extensions: { uploadOffset: 60 } } });
    expect(await uploads.state(caller, id)).toMatchObject({ offset: 60, isComplete: false });
    expect((await refusal(put(id, piece(60, 100, 100), bytes.subarray(60, 70)))).code).toBe('invalid');
    await put(id, piece(70, 100, 100), bytes.subarray(70, 100));
    await platform.done(caller, created);
  });

  test('larger than an image may be is refused, announced or not', async () => {
    const most = lab.contents.maxBytes;
    const { body } = await create();
    expect((await refusal(put(body.id, whole(most + 1), bytes))).code).toBe('body_too_large');
    expect((await refusal(put(body.id, piece(0, 5, most + 1), bytes.subarray(0, 5)))).code).toBe('body_too_large');
    expect((await refusal(create({ name: 'big', sizeBytes: most + 1 }))).details.errors).toMatchObject([
      { pointer: '/sizeBytes' },
    ]);
  });

  test('is written by one at a time; another is told that it is busy', async () => {
    const { body } = await create();
    const held = gate();
    async function* slow() {
      yield bytes.subarray(0, 100);
      await held.pass();
      yield bytes.subarray(100);
    }
    const first = uploads.receive(caller, body.id, whole(bytes.length), slow(), never);
    await held.arrived;
    expect((await refusal(put(body.id, whole(5), bytes.subarray(0, 5)))).code).toBe('busy');
    held.open();
    expect((await first).state.isComplete).toBe(true);
  });

  test('of a writer that died is taken over once its lease is over', async () => {
    const { body } = await create();
    await put(body.id, piece(0, 100), bytes.subarray(0, 100));
    await sql`update image_upload set writer = gen_random_uuid(), writer_until = now() + interval '1 hour'
      where image_id = ${body.id}`.execute(platform.db.operator);
    expect((await refusal(put(body.id, piece(100, 200), bytes.subarray(100, 200)))).code).toBe('busy');
    await sql`update image_upload set writer_until = now() where image_id = ${body.id}`.execute(platform.db.operator);
    await put(body.id, piece(100, 300_000), bytes.subarray(100));
    await expect.poll(async () => (await read(body.id)).state).toBe('ready');
  });

  test('that is cancelled in its middle ends, and leaves neither part nor image', async () => {
    const created = await create();
    const { id } = created.body;
    await waiting(created.jobId!);
    const held = gate();
    async function* slow() {
      yield bytes.subarray(0, 100);
      await held.pass();
      yield bytes.subarray(100);
    }
    const operation = await operationOf(id);
    const running = refusal(uploads.receive(caller, id, whole(bytes.length), slow(), never));
    await held.arrived;
    expect(await lab.contents.store.parts.size(operation)).toBe(100);
    await platform.jobs.cancel(caller, created.jobId!);
    expect((await platform.ended(caller, created.jobId!)).state).toBe('cancelled');
    held.open();
    expect((await running).code).toBe('conflict');
    expect((await refusal(uploads.state(caller, id))).code).toBe('not_found');
    expect(await lab.contents.store.parts.size(operation)).toBe(0);
  });

  test('is ended by a removal of the image, in any state', async () => {
    for (const before of ['nothing', 'a part']) {
      const created = await create({ name: 'leaving' });
      const { id } = created.body;
      if (before === 'a part') await put(id, piece(0, 100), bytes.subarray(0, 100));
      const removed = await platform.pipeline.remove(caller, kind(), id);
      await platform.done(caller, removed);
      expect((await refusal(put(id, piece(100, 200), bytes.subarray(100, 200)))).code).toBe('not_found');
    }
    expect((await platform.reader.list(caller, kind(), { count: 'true' })).totalCount).toBe(0);
  });

  test('of which nothing came for a day fails, says so, and can be begun again', async () => {
    const created = await create();
    const { id } = created.body;
    await put(id, piece(0, 100), bytes.subarray(0, 100));
    const [{ operation }] = (
      await sql<{
        operation: string;
      }>`select operation_id as operation from image_upload where image_id = ${id}`.execute(platform.db.operator)
    ).rows as [{ operation: string }];
    await waiting(created.jobId!);
    await sql`update image_upload set progressed_at = now() - interval '25 hours' where image_id = ${id}`.execute(
      platform.db.operator,
    );
    await sql`update job set run_at = now() where id = ${created.jobId!}`.execute(platform.db.operator);
    expect(await platform.ended(caller, created.jobId!)).toMatchObject({
      state: 'failed',
      error: { code: 'upload_abandoned' },
    });
    expect(await lab.contents.store.parts.size(operation)).toBe(0);
    expect((await refusal(put(id, whole(5), bytes.subarray(0, 5)))).message).toContain('retry');
    await platform.jobs.retry(caller, created.jobId!);
    await put(id, whole(bytes.length), bytes);
    expect((await platform.ended(caller, created.jobId!)).state).toBe('succeeded');
  });

  test('with another digest than announced fails, is thrown away, and succeeds with the right one', async () => {
    const created = await create({ sha256 });
    const { id } = created.body;
    await put(id, whole(5), bytes.subarray(0, 5));
    expect(await platform.ended(caller, created.jobId!)).toMatchObject({
      state: 'failed',
      error: { code: 'checksum_mismatch' },
    });
    expect(await read(id)).toMatchObject({ state: 'failed', sha256: null });
    await platform.jobs.retry(caller, created.jobId!);
    await put(id, whole(bytes.length), bytes);
    expect((await platform.ended(caller, created.jobId!)).state).toBe('succeeded');
    expect(await read(id)).toMatchObject({ state: 'ready', sha256 });
  });

  test('that looks like a qcow2 is raw where it was announced so, and stays it', async () => {
    const disguised = Buffer.concat([Buffer.from('QFI\xfb', 'latin1'), Buffer.alloc(8188)]);
    const raw = await create({ format: 'raw' });
    await put(raw.body.id, whole(disguised.length), disguised);
    await platform.done(caller, raw);
    expect(await read(raw.body.id)).toMatchObject({ format: 'raw', virtualSizeBytes: 8192 });
    const found = await create({ name: 'found-out' });
    await put(found.body.id, whole(disguised.length), disguised);
    expect(await platform.ended(caller, found.jobId!)).toMatchObject({
      state: 'failed',
      error: { code: 'image_refused' },
    });
    const meant = await create({ name: 'meant', format: 'qcow2' });
    await put(meant.body.id, whole(bytes.length), bytes);
    expect(await platform.ended(caller, meant.jobId!)).toMatchObject({ error: { code: 'checksum_mismatch' } });
  });

  test('that names a file of the machine, or claims an endless disk, is refused for what it is', async () => {
    const header = (change: (head: Buffer) => void) => {
      const head = Buffer.alloc(65_536);
      head.write('QFI\xfb', 0, 'latin1');
      head.writeUInt32BE(3, 4);
      change(head);
      return head;
    };
    const hostile = {
      backing_file: header((head) => head.writeBigUInt64BE(104n, 8)),
      external_data_file: header((head) => head.writeBigUInt64BE(4n, 72)),
      encrypted: header((head) => head.writeUInt32BE(2, 32)),
    };
    for (const [reason, content] of Object.entries(hostile)) {
      const created = await create({ name: reason.replaceAll('_', '-') });
      await put(created.body.id, whole(content.length), content);
      expect(await platform.ended(caller, created.jobId!), reason).toMatchObject({
        state: 'failed',
        error: { code: 'image_refused', imageRefusal: reason },
      });
    }
  });

  test('needs the right to upload; others’ images are not there, and shown ones not to be written', async () => {
    const { body } = await create();
    const stranger = await platform.tenant();
    const by = (who: Caller) => uploads.receive(who, body.id, whole(5), chunks(bytes.subarray(0, 5)), never);
    expect((await refusal(by(stranger))).code).toBe('not_found');
    expect((await refusal(by(callerIn(caller.actor.tenantId, 'viewer')))).code).toBe('forbidden');
    expect((await refusal(uploads.state(stranger, body.id))).code).toBe('not_found');
    await put(body.id, whole(bytes.length), bytes);
    await expect.poll(async () => (await read(body.id)).state).toBe('ready');
    await platform.done(caller, await platform.pipeline.act(caller, kind(), body.id, 'publish', {}));
    expect((await refusal(by(stranger))).code).toBe('forbidden');
  });
});
