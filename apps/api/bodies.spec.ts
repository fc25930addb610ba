/** A body that is sent too slowly is refused, however steadily it comes; one in time is not. */
import { request } from 'node:http';
import type { AddressInfo } from 'node:net';
import fastify, { type FastifyInstance } from 'fastify';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { acceptBodies } from './bodies.js';

let server: FastifyInstance;

beforeAll(async () => {
  server = fastify();
  acceptBodies(server, 300);
  server.post('/v1/things', async (asked) => ({ got: asked.body }));
  await server.listen({ port: 0, host: '127.0.0.1' });
});
afterAll(() => server?.close());

/** Sends `pieces`, one every 50 ms. */
function post(pieces: string[]): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const { port } = server.server.address() as AddressInfo;
    const length = Buffer.byteLength(pieces.join(''));
    const headers = { 'content-type': 'application/json', 'content-length': String(length) };
    const sending = request({ port, host: '127.0.0.1', path: '/v1/things', method: 'POST', headers }, (answer) => {
      clearInterval(timer);
      let text = '';
      answer.on('data', (data) => (text += data));
      answer.on('end', () => resolve({ status: answer.statusCode!, text }));
    });
    sending.on('error', reject);
    const timer = setInterval(() => {
      const piece = pieces.shift();
      if (piece === undefined) {
        clearInterval(timer);
        sending.end();
      } else sending.write(piece);
    }, 50);
  });
}

test('in time is read', async () => {
  expect(await post(['{"a":', '1}'])).toEqual({ status: 200, text: '{"got":{"a":1}}' });
});

test('that takes too long is answered with 408', async () => {
  const { status, text } = await post(['[', ...Array.from({ length: 40 }, () => ' '), ']']);
  expect(status).toBe(408);
  expect(JSON.parse(text)).toMatchObject({ code: 'request_timeout', status: 408 });
});
