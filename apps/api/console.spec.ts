/**
 * Consoles over WebSocket as users reach them, over real HTTP with tokens that name their actor. The way to the node is
 * played here; libs/nodes tests it.
 */
import 'reflect-metadata';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import WebSocket from 'ws';
import { InvalidToken } from '#libs/auth';
import { RhyzomeError } from '#libs/core';
import { kinds } from '#libs/kinds';
import { callerIn, globalImage, type Platform, startPlatform } from '#libs/testing';
import { Client, PlayedRelay } from './played-console.js';
import { generous, PlainTokens, serve } from './test-server.js';

const revoked = new Set<string>();

class RevocableTokens extends PlainTokens {
  override async verify(bearer: string) {
    if (revoked.has(bearer)) throw new InvalidToken('tenant_suspended', 'The tenant of this token is suspended.');
    return super.verify(bearer);
  }
}

let platform: Platform;
let app: NestFastifyApplication;
let base: string;
let relay: PlayedRelay;
let running: string;
const clients: WebSocket[] = [];

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await globalImage(platform);
  for (const id of ['acme', 'globex']) await platform.tenant(id);
  const { db, registry } = platform;
  relay = new PlayedRelay(db, {} as never);
  app = await serve(platform, generous, { relay, tokens: new RevocableTokens() });
  base = await app.getUrl();
  const caller = callerIn('acme');
  const make = async (kind: string, body: object) => {
    const change = await platform.pipeline.create(caller, registry.get(kind), body);
    await platform.done(caller, change);
    return change.body.id;
  };
  await make('network', { name: 'lan', subnet: '10.20.0.0/24' });
  const machine = { image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: 'lan' }] };
  running = await make('instance', { ...machine, name: 'web' });
  await make('instance', { ...machine, name: 'off', desiredPowerState: 'stopped' });
});

afterEach(async () => {
  for (const socket of clients.splice(0)) socket.terminate();
  await expect.poll(() => relay.consoles.every(({ hasLeft }) => hasLeft)).toBe(true);
  relay.consoles.length = 0;
  relay.refusal = undefined;
  revoked.clear();
});
afterAll(async () => {
  await app?.close();
  await platform?.close();
});

interface Asked {
  token?: string | null;
  protocols?: string[];
  headers?: Record<string, string>;
}

function dial(path: string, { token = 'admin.acme', protocols = ['rhyzome.console'], headers = {} }: Asked = {}) {
  const socket = new WebSocket(base.replace('http', 'ws') + path, protocols, {
    headers: { ...(token && { authorization: `Bearer ${token}` }), ...headers },
  });
  clients.push(socket);
  return socket;
}

async function attach(path = '/v1/instances/web/console/attach', asked: Asked = {}) {
  const socket = dial(path, asked);
  const client = new Client(socket);
  await once(socket, 'open');
  return { client, socket, console: relay.consoles.at(-1)! };
}

/** The problem that an upgrade is answered with. */
function refused(path: string, asked: Asked = {}): Promise<any> {
  const socket = dial(path, asked);
  socket.on('error', () => undefined);
  return new Promise((resolve, reject) => {
    socket.on('open', () => reject(new Error('it was accepted')));
    socket.on('unexpected-response', (_, response) => {
      let text = '';
      response.on('data', (data) => {
        text += data;
      });
      response.on('end', () => resolve({ ...JSON.parse(text), headers: response.headers }));
    });
  });
}

const path = '/v1/instances/web/console/attach';

describe('a console', () => {
  test('gives what the machine says and takes what is typed, each as binary messages', async () => {
    const { client, socket, console } = await attach();
    expect(console.target).toMatchObject({ tenantId: 'acme', instanceId: running, mayType: true, tailBytes: 65_536 });
    console.say('login: ', true);
    await expect.poll(() => client.text).toBe('login: ');
    expect(client.control).toEqual([{ type: 'keyboard', has: true }]);
    socket.send(Buffer.from('root\r'));
    socket.send(Buffer.from('secret\r'));
    await expect.poll(() => console.typed).toEqual(['root\r', 'secret\r']);
    socket.close(1000);
    await expect.poll(() => console.hasLeft).toBe(true);
  });

  test('is only watched where that is asked for, by its id as well', async () => {
    const asked = { token: 'viewer.acme' };
    const { client, socket, console } = await attach(
      `/v1/instances/${running}/console/attach?watch=true&tailBytes=5`,
      asked,
    );
    expect(console.target).toMatchObject({ mayType: false, tailBytes: 5 });
    socket.send(Buffer.from('no'));
    console.say('x', false);
    await expect.poll(() => client.text).toBe('x');
    expect(console.typed).toEqual([]);
  });

  test('is written down where it is typed into, and where that is refused', async () => {
    await attach();
    await attach(`${path}?watch=true`);
    await refused(path, { token: 'viewer.acme' });
    const answer = await fetch(`${base}/v1/audit?pageSize=500`, { headers: { authorization: 'Bearer admin.acme' } });
    const { items } = (await answer.json()) as { items: { action: string }[] };
    const told = items.filter(({ action }) => action === 'instance.console').slice(-2);
    expect(told).toMatchObject([
      { actor: 'admin@acme', result: 'done', resource: { id: running, name: 'web' } },
      { actor: 'viewer@acme', result: 'refused', code: 'forbidden' },
    ]);
  });

  test('takes a browser’s token from the protocols, and never says it again', async () => {
    const protocols = ['rhyzome.console', 'bearer.admin.acme'];
    const socket = dial(path, { token: null, protocols });
    const [response] = (await once(socket, 'upgrade')) as [{ headers: Record<string, string> }];
    expect(response.headers['sec-websocket-protocol']).toBe('rhyzome.console');
    expect(response.headers['x-request-id']).toMatch(/^[0-9a-f-]{36}$/);
    expect(JSON.stringify(response.headers)).not.toContain('admin.acme');
    const other = ['rhyzome.console', 'bearer.nonsense'];
    expect(await refused(path, { token: null, protocols: other })).toMatchObject({ status: 401 });
  });

  test('ends with its machine, its node, its slowness, and says which', async () => {
    for (const [error, code, reason] of [
      [new RhyzomeError('not_ready', 'Off.', { extensions: { reason: 'machine_off' } }), 1000, 'machine_off: Off.'],
      [new RhyzomeError('node_unreachable', `Away${'…'.repeat(200)}`), 1013, /^node_unreachable: Away…+$/],
      [new RhyzomeError('overloaded', 'Slow.', { extensions: { reason: 'too_slow' } }), 1013, 'too_slow: Slow.'],
      [new Error('secret'), 1011, 'internal: Something went wrong on our side.'],
    ] as const) {
      const { client, console } = await attach();
      console.say('last words');
      console.end(error);
      await expect.poll(() => client.code).toBe(code);
      expect(client.reason).toMatch(reason);
      expect(client.text).toBe('last words');
    }
  });

  test('ends when its token is no longer good', async () => {
    const { client } = await attach(path, { token: 'admin.acme.short' });
    const { client: other } = await attach();
    revoked.add('admin.acme.short');
    await expect.poll(() => client.code, { timeout: 8_000 }).toBe(1008);
    expect(client.reason).toBe('unauthenticated: The tenant of this token is suspended.');
    expect(other.code).toBe(0);
  }, 15_000);

  test('takes no text and no message over 64 KiB', async () => {
    const text = await attach();
    text.socket.send('{"type":"keyboard"}');
    await expect.poll(() => text.client.code).toBe(1003);
    const large = await attach();
    large.socket.send(Buffer.alloc(64 * 1024));
    await expect.poll(() => large.console.typed.length).toBe(1);
    large.socket.send(Buffer.alloc(64 * 1024 + 1));
    await expect.poll(() => large.client.code).toBe(1009);
  });

  test('waits for a client that does not read, and holds no more than a little for it', async () => {
    const { socket, console } = await attach();
    socket.pause();
    for (let n = 0; n < 400; n += 1) console.say('x'.repeat(64 * 1024));
    // The kernel takes some; then it stands still.
    let before = console.waiting;
    const stands = () => {
      const now = console.waiting;
      const isSame = now === before;
      before = now;
      return isSame;
    };
    await expect.poll(stands, { interval: 500, timeout: 10_000 }).toBe(true);
    expect(before).toBeGreaterThan(200);
  });
});

test('ends when its server is about to', async () => {
  const draining = new AbortController();
  const other = await serve(platform, generous, { relay, draining: draining.signal });
  const socket = new WebSocket((await other.getUrl()).replace('http', 'ws') + path, ['rhyzome.console'], {
    headers: { authorization: 'Bearer admin.acme' },
  });
  const client = new Client(socket);
  await once(socket, 'open');
  draining.abort();
  await expect.poll(() => [client.code, client.reason]).toEqual([1012, 'restart: The server restarts; attach again.']);
  await other.close();
});

describe('before the upgrade, with an ordinary problem, is refused', () => {
  test.each<[string, string, Asked, object]>([
    ['no token', path, { token: null }, { status: 401, code: 'unauthenticated' }],
    ['a bad token', path, { token: 'bad' }, { status: 401, code: 'unauthenticated' }],
    ['what does not exist', path.replace('web', 'nobody'), {}, { status: 404, code: 'not_found' }],
    ['what is another tenant’s', path, { token: 'admin.globex' }, { status: 404, code: 'not_found' }],
    ['a typist without the right', path, { token: 'viewer.acme' }, { status: 403, code: 'forbidden' }],
    ['a machine that is off', path.replace('web', 'off'), {}, { status: 409, code: 'not_ready' }],
    ['an unknown parameter', `${path}?x=1`, {}, { status: 422, errors: [{ parameter: 'x' }] }],
    ['a wrong watch', `${path}?watch=1`, {}, { status: 422, errors: [{ parameter: 'watch' }] }],
    ['a wrong tail', `${path}?tailBytes=0`, {}, { status: 422, errors: [{ parameter: 'tailBytes' }] }],
    ['another path', '/v1/nothing/attach', {}, { status: 404, code: 'not_found' }],
  ])('%s', async (_, to, asked, problem) => {
    const answer = await refused(to, asked);
    expect(answer).toMatchObject(problem);
    expect(answer.headers['content-type']).toMatch('application/problem+json');
    expect(answer.requestId).toBe(answer.headers['x-request-id']);
    expect(relay.consoles).toHaveLength(0);
  });

  test('a node that is away, with Retry-After', async () => {
    relay.refusal = new RhyzomeError('node_unreachable', 'Away.', { retryAfterSeconds: 2 });
    const answer = await refused(path);
    expect(answer).toMatchObject({ status: 503, code: 'node_unreachable', headers: { 'retry-after': '2' } });
  });

  test('a request without an upgrade, or with another one', async () => {
    const headers = { authorization: 'Bearer admin.acme' };
    const plain = await fetch(base + path, { headers });
    expect([plain.status, plain.headers.get('upgrade')]).toEqual([426, 'websocket']);
    expect(await plain.json()).toMatchObject({ code: 'upgrade_required' });
    const { hostname, port } = new URL(base);
    const old = connect(Number(port), hostname);
    old.write(`GET ${path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer admin.acme\r\nconnection: upgrade\r\n`);
    old.write('upgrade: websocket\r\nsec-websocket-version: 8\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n');
    const [answer] = (await once(old, 'data')) as [Buffer];
    expect(answer.toString()).toMatch(/^HTTP\/1.1 426 .*sec-websocket-version: 13/is);
    await once(old, 'close');
  });

  test('more than a hundred of a tenant at once', async () => {
    await Promise.all(Array.from({ length: 100 }, () => attach(`${path}?watch=true`)));
    expect(await refused(path)).toMatchObject({ status: 429, code: 'too_many_requests' });
  });
});

test('an upgrade to anything else is passed over and answered as if there were none', async () => {
  const { hostname, port } = new URL(base);
  const socket = connect(Number(port), hostname);
  socket.write(
    'GET /v1/networks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer admin.acme\r\nconnection: upgrade, close\r\nupgrade: h2c\r\n\r\n',
  );
  const [answer] = (await once(socket, 'data')) as [Buffer];
  expect(answer.toString()).toMatch(/^HTTP\/1.1 200 /);
  socket.destroy();
});
