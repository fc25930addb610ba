/** What guests get over the metadata address: their own and nothing else, within limits, also without a controller. */
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { request } from 'node:http';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { InstanceSpec, NetworkSpec, Ref } from '#libs/drivers/contract';
import { GuestMetrics } from './guest-metrics.js';
import { GuestDirectory, type WantedResource } from './guests.js';
import { type MetadataService, startMetadataService } from './service.js';
import { metadataSocketPath } from './socket-path.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const [netA, netB] = ['a', 'b'].map((digit) => `0193f9a0-0000-7000-8000-00000000000${digit}`) as [string, string];
const [vmA, vmB] = ['c', 'd'].map((digit) => `0193f9a0-0000-7000-8000-00000000000${digit}`) as [string, string];

function ref(tenantId: string, kind: string, id: string): Ref {
  return { tenantId, kind, id };
}

function wanted(of: Ref, spec: object, present = true): WantedResource {
  return { ref: of, wanted: { present, spec } };
}

const net: Partial<NetworkSpec> = {
  subnet: '10.0.0.0/24',
  gateway: '10.0.0.1',
  subnet6: null,
  gateway6: null,
  dns: [],
  domain: 'a.test',
  mtu: 1450,
};

function machine(name: string, networkId: string, more: Partial<InstanceSpec['guest']> = {}): Partial<InstanceSpec> {
  return {
    name,
    interfaces: [{ networkId, mac: '02:00:00:00:00:05', ip: '10.0.0.5', ip6: 'fd00::5' }],
    guest: { hostname: `${name}-host`, tags: { role: name }, userData: `#cloud-config ${name}`, sshKeys: [], ...more },
  };
}

/** Two tenants with the same subnet, and in it a guest each with the same address. */
const everything = () => [
  wanted(ref('acme', 'network', netA), net),
  wanted(ref('globex', 'network', netB), { ...net, domain: 'b.test' }),
  wanted(ref('acme', 'instance', vmA), machine('web', netA, { sshKeys: ['ssh-ed25519 AAAA one', 'ssh-rsa BBBB two'] })),
  wanted(ref('globex', 'instance', vmB), machine('db', netB, { userData: null })),
];

let dir: string;
let path: string;
let guests: GuestDirectory;
let metrics: GuestMetrics;
let service: MetadataService;

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-metadata-'));
  guests = await GuestDirectory.open(join(dir, 'guests.json'), quiet);
  guests.update(everything());
  metrics = new GuestMetrics();
  path = await metadataSocketPath(dir);
  service = await startMetadataService({ path, guests, metrics, ca: () => 'THE CA\n', log: quiet });
});
afterEach(async () => {
  await service.close();
  await guests.close();
  await rm(dir, { recursive: true, force: true });
});

/** Bytes sent on a connection of its own; all that comes back. */
function raw(bytes: string, pieces = 1): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    let text = '';
    socket.setEncoding('utf8').on('data', (data: string) => {
      text += data;
    });
    socket.on('close', () => resolve(text));
    socket.on('error', (error: NodeJS.ErrnoException) => (error.code === 'EPIPE' ? resolve(text) : reject(error)));
    const size = Math.ceil(bytes.length / pieces);
    for (let at = 0; at < bytes.length; at += size) {
      setTimeout(() => socket.write(bytes.slice(at, at + size)), (at / size) * 5);
    }
  });
}

interface Asked {
  method?: string;
  body?: string;
  type?: string;
  headers?: Record<string, string>;
  line?: string;
}

/** One request of the guest at 10.0.0.5 on a network. */
function ask(url: string, { method = 'GET', body, type, headers = {}, line = `${netA} 10.0.0.5\n` }: Asked = {}) {
  return new Promise<{ status: number; text: string }>((resolve, reject) => {
    const socket = connect(path);
    socket.write(line);
    const sent = request(
      {
        createConnection: () => socket,
        path: url,
        method,
        headers: { connection: 'close', host: '169.254.169.254', ...(type && { 'content-type': type }), ...headers },
      },
      (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (data: string) => {
          text += data;
        });
        response.on('end', () => {
          socket.destroy();
          resolve({ status: response.statusCode!, text });
        });
      },
    );
    sent.on('error', reject);
    sent.end(body);
  });
}

const ofB = { line: `${netB} 10.0.0.5\n` };

describe('a guest', () => {
  test('learns who it is, with its networks, and nothing of the one that has the same address elsewhere', async () => {
    const mine = JSON.parse((await ask('/v1/identity')).text);
    expect(mine).toEqual({
      id: vmA,
      name: 'web',
      tenant: 'acme',
      hostname: 'web-host',
      tags: { role: 'web' },
      interfaces: [{ network: netA, mac: '02:00:00:00:00:05', ip: '10.0.0.5', ip6: 'fd00::5', ...net }],
    });
    const theirs = JSON.parse((await ask('/v1/identity', ofB)).text);
    expect(theirs).toMatchObject({ id: vmB, tenant: 'globex', interfaces: [{ domain: 'b.test' }] });
    expect((await ask('/v1/identity', { line: `${netA} fd00::5\n` })).text).toContain(vmA);
  });

  test('gets its user data, keys and the CA', async () => {
    expect(await ask('/v1/user-data')).toEqual({ status: 200, text: '#cloud-config web' });
    expect((await ask('/v1/user-data', ofB)).status).toBe(404);
    expect((await ask('/v1/ssh-keys')).text).toBe('ssh-ed25519 AAAA one\nssh-rsa BBBB two\n');
    expect((await ask('/v1/ca.pem')).text).toBe('THE CA\n');
  });

  test.each([
    ['/latest/meta-data/instance-id', vmA],
    ['/2009-04-04/meta-data/instance-id', vmA],
    ['/latest/meta-data/hostname', 'web-host'],
    ['/latest/meta-data/local-ipv4', '10.0.0.5'],
    ['/latest/meta-data/public-keys/0/openssh-key', 'ssh-ed25519 AAAA one'],
    ['/latest/meta-data/public-keys/1/openssh-key', 'ssh-rsa BBBB two'],
    ['/latest/meta-data/public-keys/', '0=key-0\n1=key-1'],
    ['/latest/meta-data/public-keys/0/', 'openssh-key'],
    ['/latest/user-data', '#cloud-config web'],
    ['/latest/meta-data/', 'instance-id\nhostname\nlocal-hostname\nlocal-ipv4\nmac\npublic-keys/'],
  ])('finds %s where images look for it', async (url, text) => {
    expect(await ask(url)).toEqual({ status: 200, text });
  });

  test.each([
    '/',
    '/v1',
    '/v1/identity/../../etc',
    '/latest/meta-data/public-keys/2/openssh-key',
    '/latest/meta-data/constructor',
    '/latest/meta-data/__proto__',
    '/20099-04-04/meta-data/hostname',
  ])('finds nothing at %s', async (url) => {
    expect((await ask(url)).status).toBe(404);
  });

  test('that is unknown, forged or forwarded gets nothing', async () => {
    expect((await ask('/v1/identity', { line: `${netA} 10.0.0.6\n` })).status).toBe(404);
    expect((await ask('/v1/identity', { headers: { 'x-forwarded-for': '1.2.3.4' } })).status).toBe(403);
    expect((await ask('/v1/identity', { headers: { host: 'evil.example' } })).status).toBe(403);
    expect(await raw(`${netA} 10.0.0.5\nGET /v1/user-data HTTP/1.0\r\n\r\n`)).toMatch(/ 200 /);
    for (const line of ['GET / HTTP/1.1\r\n\r\n', '\n', `${netA}\n`, `${netA} 10.0.0.5 x\n`, 'x'.repeat(500)]) {
      expect(await raw(line)).toBe('');
    }
    guests.update(everything().map((one) => (one.ref.id === vmA ? wanted(one.ref, {}, false) : one)));
    expect((await ask('/v1/identity')).status).toBe(404);
  });

  test('may send its first line together with its request, or in small pieces', async () => {
    const bytes = `${netA} 10.0.0.5\nGET /v1/user-data HTTP/1.1\r\nhost: 169.254.169.254:80\r\nconnection: close\r\n\r\n`;
    for (const pieces of [1, 12]) expect(await raw(bytes, pieces)).toMatch(/^HTTP\/1.1 200 .*#cloud-config web$/s);
  });

  test('has eight connections, and no more', async () => {
    const held = Array.from({ length: 8 }, () => connect(path));
    for (const socket of held) socket.write(`${netA} 10.0.0.5\n`);
    await expect.poll(() => raw(`${netA} 10.0.0.5\n`)).toMatch(/^HTTP\/1.1 429 /);
    expect((await ask('/v1/identity', ofB)).status).toBe(200);
    for (const socket of held) socket.destroy();
    await expect.poll(async () => (await ask('/v1/identity').catch(() => undefined))?.status).toBe(200);
  });
});

describe('what guests report', () => {
  test('is kept, the last of each, and given once to be sent; again to another stream', async () => {
    const text = '# TYPE jobs_total counter\njobs_total{queue="a \\"b\\""} 7\ntemperature 21.5 1700000000000\n';
    expect((await ask('/v1/metrics', { method: 'POST', body: text, type: 'text/plain' })).status).toBe(204);
    expect((await ask('/v1/metrics', { method: 'POST', body: '{}', ...ofB, type: 'application/json' })).status).toBe(
      204,
    );
    const expected = {
      ref: ref('acme', 'instance', vmA),
      metrics: [
        { name: 'jobs_total', type: 'counter', labels: { queue: 'a "b"' }, value: 7 },
        { name: 'temperature', type: 'gauge', labels: {}, value: 21.5 },
      ],
    };
    expect(metrics.takeUnsent()).toMatchObject([expected, { ref: { id: vmB }, metrics: [] }]);
    expect(metrics.takeUnsent()).toEqual([]);
    metrics.sendAgain();
    expect(metrics.takeUnsent()).toHaveLength(2);
  });

  test('comes once a second at most', async () => {
    const send = () => ask('/v1/metrics', { method: 'POST', body: '{"a": 1}', type: 'application/json' });
    expect([(await send()).status, (await send()).status]).toEqual([204, 429]);
  });

  test.each([
    ['application/json', '{"a": "1"}', '/a'],
    ['application/json', '{"1a": 1}', '/metrics/0/name'],
    ['application/json', '[1]', ''],
    ['application/json', '{', ''],
    ['application/json', '{"rhyzome_x": 1}', '/metrics/0/name'],
    ['application/json', '{"a": 1e999}', '/metrics/0/value'],
    ['text/plain', 'a NaN', '/metrics/0/value'],
    ['text/plain', 'a{instance="x"} 1', '/metrics/0/labels/instance'],
    ['text/plain', 'a 1\na 2', '/metrics/1'],
    ['text/plain', 'a{b="c} 1', ''],
    ['text/plain', 'a 1 2 3', ''],
  ])('is refused where it is wrong: %s %s', async (type, body, pointer) => {
    const { status, text } = await ask('/v1/metrics', { method: 'POST', body, type });
    expect(status).toBe(422);
    expect(JSON.parse(text).errors[0].pointer).toBe(pointer);
    expect(metrics.takeUnsent()).toEqual([]);
  });

  test('is no more than 100 metrics and 64 KiB', async () => {
    const many = Array.from({ length: 101 }, (_, n) => `m${n} 1`).join('\n');
    expect((await ask('/v1/metrics', { method: 'POST', body: many })).text).toContain('"/metrics"');
    const body = `# ${'x'.repeat(70_000)}`;
    expect((await ask('/v1/metrics', { method: 'POST', body })).status).toBe(413);
    expect((await ask('/v1/metrics')).status).toBe(405);
    expect((await ask('/v1/identity', { method: 'DELETE' })).status).toBe(405);
  });
});

test('what guests are told is there again after a restart, readable for the agent only', async () => {
  await guests.close();
  const file = join(dir, 'guests.json');
  expect((await stat(file)).mode & 0o777).toBe(0o600);
  expect(await readFile(file, 'utf8')).toContain('web-host');
  const again = await GuestDirectory.open(file, quiet);
  expect(again.find(netB, '10.0.0.5')?.ref.id).toBe(vmB);
});

test('a state directory that is too long for a socket gets a short, private one in its place', async () => {
  const long = join(dir, 'x'.repeat(100));
  const short = await metadataSocketPath(long);
  expect(Buffer.byteLength(short)).toBeLessThanOrEqual(107);
  expect(await metadataSocketPath(long)).toBe(short);
  const folder = join(short, '..');
  expect((await stat(folder)).mode & 0o777).toBe(0o700);
  await rm(folder, { recursive: true });
});
