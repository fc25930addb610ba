/** The end of an HTTP server as clients with connections of their own meet it. */
import { Agent, get, type IncomingMessage } from 'node:http';
import { setImmediate as immediate } from 'node:timers/promises';
import { fastify } from 'fastify';
import { afterEach, expect, test } from 'vitest';
import { HttpDrain } from './drain.js';

const ends: (() => Promise<unknown> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function server(keepMs?: number) {
  const app = fastify({ return503OnClosing: false, forceCloseConnections: 'idle' });
  const drain = new HttpDrain(app as never, keepMs);
  app.get('/quick', () => 'quick');
  app.get('/slow', async () => {
    await new Promise((resolve) => setTimeout(resolve, 300));
    return 'slow';
  });
  const base = await app.listen({ port: 0, host: '127.0.0.1' });
  ends.push(() => app.close());
  return { app, drain, base };
}

/** A client with one connection, which it keeps. */
function client(base: string) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  ends.push(() => agent.destroy());
  return (path: string) =>
    new Promise<{ status: number; connection: string | undefined; text: string }>((resolve, reject) => {
      get(base + path, { agent }, async (response: IncomingMessage) => {
        let text = '';
        for await (const chunk of response) text += chunk;
        resolve({ status: response.statusCode!, connection: response.headers.connection, text });
      }).once('error', reject);
    });
}

test('answers on connections that stand, asks for their end, takes no new ones', async () => {
  const { app, drain, base } = await server();
  const [idle, busy, late] = [client(base), client(base), client(base)];
  expect(await idle('/quick')).toMatchObject({ status: 200, connection: 'keep-alive' });
  expect(await busy('/quick')).toMatchObject({ status: 200, connection: 'keep-alive' });
  const running = busy('/slow');
  await new Promise((resolve) => setTimeout(resolve, 100));
  const drained = drain.run();
  expect(drain.signal.aborted).toBe(true);
  for (let turn = 0; turn < 4; turn += 1) await immediate();
  await expect(late('/quick')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  expect(await idle('/quick')).toEqual({ status: 200, connection: 'close', text: 'quick' });
  expect(await running).toMatchObject({ status: 200, text: 'slow' });
  // Its answer had begun before; the next one on its connection says so.
  expect(await busy('/quick')).toMatchObject({ status: 200, connection: 'close' });
  await drained;
  await app.close();
});

test('waits no longer than it may for a connection that nobody uses', async () => {
  const { app, drain, base } = await server(200);
  const idle = client(base);
  await idle('/quick');
  await drain.run();
  await app.close();
  const refusal = () => idle('/quick').catch((error: NodeJS.ErrnoException) => error.code);
  await expect.poll(refusal).toBe('ECONNREFUSED');
});

test('answers whoever waited to be accepted when its end began', async () => {
  const { app, drain, base } = await server(200);
  const waiting = Array.from({ length: 20 }, () => client(base)('/quick'));
  // Not before they are connected as far as the system is concerned, and without a look at the network meanwhile.
  await Promise.resolve();
  const until = Date.now() + 50;
  while (Date.now() < until);
  const drained = drain.run();
  expect(await Promise.all(waiting)).toEqual(waiting.map(() => expect.objectContaining({ status: 200 })));
  await drained;
  await app.close();
});
