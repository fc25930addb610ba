/** The content of an image over real HTTP: headers, pieces, broken connections, what is refused, and bodies on other routes. */
import 'reflect-metadata';
import { createHash, randomBytes } from 'node:crypto';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { kinds } from '#libs/kinds';
import { contentLab, type Platform, startPlatform } from '#libs/testing';
import { askAt, expectProblem, serve, type Told } from './test-server.js';

let platform: Platform;
let app: NestFastifyApplication;
let base: string;
let id: string;

const bytes = randomBytes(1_000_000);
const sha256 = createHash('sha256').update(bytes).digest('hex');
const octets = { 'content-type': 'application/octet-stream' };

beforeAll(async () => {
  await contentLab();
  platform = await startPlatform({ kinds });
  for (const tenant of ['acme', 'globex']) await platform.tenant(tenant);
  app = await serve(platform);
  base = await app.getUrl();
});
afterAll(async () => {
  await app?.close();
  await platform?.close();
});
beforeEach(async () => {
  const name = `i-${newId().slice(-12)}`;
  const created = await askAt(base, '/v1/images', { method: 'POST', body: { name, sha256, sizeBytes: bytes.length } });
  expect(created.status).toBe(202);
  id = created.body.id;
});

const contentOf = (image = id) => `/v1/images/${image}/content`;

/** A PUT as any client sends it; what follows `body` after a pause is given by `more`. */
async function put(
  body: Uint8Array,
  headers: Record<string, string> = octets,
  path = contentOf(),
  token = 'admin.acme',
): Promise<Told> {
  const response = await fetch(`${base}${path}`, {
    method: 'PUT',
    body: body as Uint8Array<ArrayBuffer>,
    headers: { authorization: `Bearer ${token}`, ...headers },
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, body: text === '' ? undefined : JSON.parse(text) };
}

const piece = (first: number, end: number, total: number | string = bytes.length) =>
  put(bytes.subarray(first, end), { ...octets, 'content-range': `bytes ${first}-${end - 1}/${total}` });
const head = (image = id, token = 'admin.acme') => askAt(base, contentOf(image), { method: 'HEAD', token });

/** Sends the first bytes of a whole body and then breaks the connection. */
async function broken(first: number): Promise<void> {
  const headers = { authorization: 'Bearer admin.acme', ...octets, 'content-length': String(bytes.length) };
  const sending: ClientRequest = request(`${base}${contentOf()}`, { method: 'PUT', headers });
  sending.on('error', () => undefined);
  await new Promise<void>((resolve) => sending.write(bytes.subarray(0, first), () => resolve()));
  await expect.poll(async () => Number((await head()).headers.get('upload-offset'))).toBe(first);
  sending.destroy();
}

describe('PUT …/content', () => {
  test('whole answers 202 with image and job, and 200 when they have ended with wait', async () => {
    const sent = await put(bytes);
    expect(sent).toMatchObject({ status: 202, body: { id, kind: 'image', job: { id: expect.any(String) } } });
    expect(sent.headers.get('location')).toBe(`/v1/jobs/${sent.body.job.id}`);
    expect(sent.headers.get('upload-offset')).toBe(String(bytes.length));
    const made = await askAt(base, '/v1/images', { method: 'POST', body: { name: 'waits' } });
    const ended = await put(bytes, octets, `${contentOf(made.body.id)}?wait=20s`);
    expect(ended).toMatchObject({ status: 200, body: { state: 'ready', sha256, job: { state: 'succeeded' } } });
  });

  test('is resumed after the connection broke at 60 %, by HEAD and a piece', async () => {
    await broken(600_000);
    const asked = await head();
    expect([asked.status, asked.headers.get('upload-offset'), asked.headers.get('upload-length')]).toEqual([
      200,
      '600000',
      '1000000',
    ]);
    expect(asked.headers.get('cache-control')).toBe('no-store');
    await expect.poll(async () => (await piece(600_000, 800_000)).status).toBe(200);
    expect((await piece(800_000, 1_000_000)).status).toBe(202);
    await expect.poll(async () => (await askAt(base, `/v1/images/${id}`)).body.state).toBe('ready');
    expect((await askAt(base, `/v1/images/${id}`)).body.sha256).toBe(sha256);
  });

  test('tells in its problem where the next piece begins', async () => {
    await piece(0, 1_000);
    const { body } = await expectProblem(piece(2_000, 3_000), 409, 'wrong_offset');
    expect(body).toMatchObject({ uploadOffset: 1_000, uploadLength: 1_000_000, errors: [{ header: 'Content-Range' }] });
  });

  test('refuses headers that contradict each other or what was announced', async () => {
    const wrong: Record<string, string>[] = [
      { 'content-range': 'bytes 0-9' },
      { 'content-range': 'octets 0-9/1000000' },
      { 'content-range': 'bytes 9-0/1000000' },
      { 'content-range': 'bytes 0-99/1000000' },
      { 'content-range': 'bytes 0-9/5' },
      { 'content-range': 'bytes 0-9/999999' },
    ];
    for (const headers of wrong) {
      await expectProblem(put(bytes.subarray(0, 10), { ...octets, ...headers }), 422, 'invalid');
    }
    await expectProblem(put(bytes.subarray(0, 10)), 422, 'invalid');
    await expectProblem(put(Buffer.alloc(0)), 422, 'invalid');
    await expectProblem(put(bytes, octets, `${contentOf()}?dryRun=true`), 422, 'invalid');
    expect((await head()).headers.get('upload-offset')).toBe('0');
  });

  test('takes bytes only: what is JSON or packed is a type that it does not take', async () => {
    for (const json of [Buffer.from('{}'), Buffer.from('no json'), Buffer.alloc(1024 ** 2 + 1, 'x')]) {
      await expectProblem(put(json, { 'content-type': 'application/json' }), 415, 'unsupported_media_type');
    }
    await expectProblem(put(bytes, { 'content-type': 'image/png' }), 415, 'unsupported_media_type');
    await expectProblem(put(bytes, { ...octets, 'content-encoding': 'gzip' }), 415, 'unsupported_media_type');
  });

  test('is refused with 413 from the announcement on, however little is sent', async () => {
    const headers = { ...octets, 'content-range': `bytes 0-9/${2 ** 41}` };
    const other = (await askAt(base, '/v1/images', { method: 'POST', body: { name: `b-${newId().slice(-12)}` } })).body
      .id;
    await expectProblem(put(bytes.subarray(0, 10), headers, contentOf(other)), 413, 'body_too_large');
  });

  test('of a chunked body that has too few or too many bytes is told so', async () => {
    const chunked = (length: number) =>
      new Promise<number>((resolve, reject) => {
        const headers = { authorization: 'Bearer admin.acme', ...octets, 'transfer-encoding': 'chunked' };
        const sending = request(`${base}${contentOf()}`, { method: 'PUT', headers }, (answer: IncomingMessage) => {
          answer.resume();
          resolve(answer.statusCode!);
        });
        sending.on('error', reject);
        sending.end(Buffer.concat([bytes, bytes]).subarray(0, length));
      });
    expect(await chunked(999_999)).toBe(422);
    expect((await head()).headers.get('upload-offset')).toBe('999999');
    expect(await chunked(1_000_001)).toBe(422);
    expect(await chunked(1_000_000)).toBe(202);
  });

  test('needs a token, the right, and an image that waits for it', async () => {
    await expectProblem(put(bytes, octets, contentOf(), 'none'), 401, 'unauthenticated');
    await expectProblem(put(bytes, octets, contentOf(), 'viewer.acme'), 403, 'forbidden');
    await expectProblem(put(bytes, octets, contentOf(), 'admin.globex'), 404, 'not_found');
    await expectProblem(put(bytes, octets, contentOf('no-such-image')), 404, 'not_found');
    expect((await head(id, 'admin.globex')).status).toBe(404);
    expect((await head(id, 'viewer.acme')).status).toBe(200);
    expect((await put(bytes, octets, `${contentOf()}?wait=20s`)).status).toBe(200);
    await expectProblem(put(bytes), 409, 'conflict');
  });

  test('without a type, as curl -T sends it, is taken', async () => {
    const sent = await new Promise<number>((resolve, reject) => {
      const headers = { authorization: 'Bearer admin.acme', 'content-length': String(bytes.length) };
      const sending = request(`${base}${contentOf()}`, { method: 'PUT', headers }, (answer) => {
        answer.resume();
        resolve(answer.statusCode!);
      });
      sending.on('error', reject);
      sending.end(bytes);
    });
    expect(sent).toBe(202);
  });
});

describe('a client that asks first', () => {
  /** Sends `Expect: 100-continue`, and the body only when it is told to. */
  const asking = (headers: Record<string, string>, path = contentOf(), method = 'PUT', body: Uint8Array = bytes) =>
    new Promise<{ status: number; wasTold: boolean }>((resolve, reject) => {
      let wasTold = false;
      const all = { authorization: 'Bearer admin.acme', expect: '100-continue', ...headers };
      const sending = request(
        `${base}${path}`,
        { method, headers: { ...all, 'content-length': String(body.length) } },
        (answer) => {
          answer.resume();
          resolve({ status: answer.statusCode!, wasTold });
          sending.destroy();
        },
      );
      sending.on('continue', () => {
        wasTold = true;
        sending.end(body);
      });
      sending.on('error', reject);
      sending.flushHeaders();
    });

  test('is told to send once it was let in, on every route, and otherwise refused before it sends', async () => {
    expect(await asking({ ...octets, 'content-range': 'bytes 5-1000004/2000000' })).toEqual({
      status: 422,
      wasTold: false,
    });
    expect(await asking(octets, contentOf('absent'))).toEqual({ status: 404, wasTold: false });
    expect(await asking({ ...octets, authorization: 'Bearer none' })).toEqual({ status: 401, wasTold: false });
    expect(await asking(octets)).toEqual({ status: 202, wasTold: true });
    const json = Buffer.from(JSON.stringify({ name: `n-${newId().slice(-12)}`, subnet: '10.9.0.0/24' }));
    expect(await asking({ 'content-type': 'application/json' }, '/v1/networks', 'POST', json)).toEqual({
      status: 202,
      wasTold: true,
    });
  });

  test('that does not ask and sends in vain reads its refusal all the same', async () => {
    const big = new Uint8Array(20_000_000);
    await expectProblem(put(big, octets, contentOf('absent')), 404, 'not_found');
    await expectProblem(put(big), 422, 'invalid');
    await expectProblem(put(big, { ...octets, 'content-encoding': 'br' }), 415, 'unsupported_media_type');
  });
});

describe('other routes', () => {
  test('take no streams of bytes', async () => {
    for (const [method, path] of [
      ['POST', '/v1/images'],
      ['POST', '/v1/networks'],
      ['PATCH', `/v1/images/${id}`],
    ] as const) {
      const headers = { authorization: 'Bearer admin.acme', ...octets };
      const response = await fetch(`${base}${path}`, { method, body: bytes, headers });
      expect([response.status, ((await response.json()) as { code: string }).code]).toEqual([
        415,
        'unsupported_media_type',
      ]);
    }
  });
});
