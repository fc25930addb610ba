/** Host names of tenants over real HTTP: straight, behind a proxy that passes the host on, and what is no host. */
import 'reflect-metadata';
import { createServer, request as httpRequest, type IncomingHttpHeaders, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Database } from '#libs/db';
import { kinds } from '#libs/kinds';
import { Addressing } from '#libs/rest';
import { DomainCache } from '#libs/tenants';
import { type Platform, startPlatform } from '#libs/testing';
import { generous, serve } from './test-server.js';

let platform: Platform;
let app: NestFastifyApplication;
let behind: NestFastifyApplication;
let proxy: Server;
/** The servers' own, beside what runs in the background. */
let db: Database;
/** Its statements. */
let statements: string[] = [];

beforeAll(async () => {
  platform = await startPlatform({ kinds, workers: false });
  db = new Database({ app: platform.connection, onQuery: (text) => statements.push(text) });
  for (const id of ['acme', 'globex']) await platform.tenant(id);
  const domains = new DomainCache(async () => [{ domain: 'api.acme.example', tenantId: 'acme' }], 'api.example.org');
  await domains.refresh();
  const ownerOf = (host: string) => domains.ownerOf(host);
  app = await serve({ ...platform, db }, generous, { addressing: new Addressing(ownerOf) });
  behind = await serve({ ...platform, db }, generous, { addressing: new Addressing(ownerOf, ['127.0.0.0/8']) });
  proxy = passingOn(portOf(behind.getHttpServer()));
  await new Promise<void>((done) => proxy.listen(0, '127.0.0.1', done));
});
afterAll(async () => {
  proxy?.close();
  await app?.close();
  await behind?.close();
  await db?.close();
  await platform?.close();
});

const portOf = (server: { address(): AddressInfo | string | null }) => (server.address() as AddressInfo).port;
const direct = () => portOf(app.getHttpServer());

/** A reverse proxy as administrators set one up: it connects by an address, and says whom the client asked for. */
function passingOn(port: number): Server {
  return createServer((asked, answer) => {
    const headers = {
      ...asked.headers,
      host: `127.0.0.1:${port}`,
      'x-forwarded-host': asked.headers.host,
      'x-forwarded-for': [asked.headers['x-forwarded-for'], '192.0.2.7'].filter(Boolean).join(', '),
      'x-forwarded-proto': 'https',
    };
    const sent = httpRequest({ port, method: asked.method, path: asked.url, headers }, (got) => {
      answer.writeHead(got.statusCode!, got.headers);
      got.pipe(answer);
    });
    asked.pipe(sent);
  });
}

interface Told {
  status: number;
  headers: IncomingHttpHeaders;
  body: any;
}

/** fetch lets nobody choose a Host. */
function ask(port: number, host: string, token: string | null = 'admin.acme', path = '/v1/networks', more = {}) {
  const headers = { host, ...(token !== null && { authorization: `Bearer ${token}` }), ...more };
  return new Promise<Told>((done, fail) => {
    const sent = httpRequest({ port, path, headers }, (got) => {
      let text = '';
      got.on('data', (chunk) => (text += chunk));
      got.on('end', () => done({ status: got.statusCode!, headers: got.headers, body: JSON.parse(text) }));
    });
    sent.on('error', fail);
    sent.end();
  });
}

/** Bytes as they are; gives all that came back. */
function send(bytes: string): Promise<string> {
  return new Promise((done, fail) => {
    const socket = connect(direct(), '127.0.0.1', () => socket.write(Buffer.from(bytes, 'latin1')));
    let text = '';
    socket.on('data', (chunk) => (text += chunk.toString('latin1')));
    socket.on('close', () => done(text));
    socket.on('error', fail);
  });
}

const metadataAt = (host: string) => `http://${host}/.well-known/oauth-protected-resource`;
const refusedHere = 'The token is not of the tenant of this host name.';

describe.each([
  ['straight', direct],
  ['behind a proxy', () => portOf(proxy)],
])('%s', (_, port) => {
  test('a tenant’s host is for its own tokens, however it is written; other hosts are for all', async () => {
    for (const host of ['acme.api.example.org', 'ACME.api.example.org.:8443', 'api.acme.example', 'Api.Acme.Example:1'])
      expect((await ask(port(), host)).status, host).toBe(200);
    for (const host of ['api.example.org', '127.0.0.1', 'localhost:8080', '[::1]:8080', 'somewhere.example'])
      for (const token of ['admin.acme', 'admin.globex'])
        expect((await ask(port(), host, token)).status, host).toBe(200);
  });

  test('any other token gets 401 there, and learns nothing of which tenants there are', async () => {
    const seen = new Set<string>();
    statements = [];
    const hosts = ['globex', 'absent', 'system', 'not-an-id', 'a.b', 'xn--bcher-kva'].map(
      (l) => `${l}.api.example.org`,
    );
    for (const host of hosts) {
      for (const path of ['/v1/networks', '/v1/no/such/path', '/v1/networks/01890000-0000-7000-8000-000000000000']) {
        const { status, headers, body } = await ask(port(), host, 'admin.acme', path);
        expect({ status, code: body.code, detail: body.detail }).toEqual({
          status: 401,
          code: 'unauthenticated',
          detail: refusedHere,
        });
        expect(headers['www-authenticate']?.replace('="https:', '="http:')).toBe(
          `Bearer realm="rhyzome", error="invalid_token", error_description="${refusedHere}", resource_metadata="${metadataAt(host)}"`,
        );
        const { requestId: _id, instance: _path, ...same } = body;
        const names = Object.keys(headers).filter((name) => name !== 'x-request-id');
        seen.add(JSON.stringify([same, names, headers['content-length'], path]));
      }
    }
    expect(seen.size).toBe(3);
    expect(statements).toEqual([]);
    const none = await ask(port(), 'globex.api.example.org', null);
    const metadata = metadataAt('globex.api.example.org');
    expect(none.headers['www-authenticate']?.replace('https:', 'http:')).toBe(
      `Bearer realm="rhyzome", resource_metadata="${metadata}"`,
    );
    expect((await ask(port(), 'api.acme.example', 'admin.globex')).status).toBe(401);
    expect((await ask(port(), 'globex.api.example.org', null, '/v1/openapi.json')).status).toBe(200);
  });

  test('links and places stay on the host that was asked', async () => {
    for (let i = 0; i < 2; i++) {
      const body = { name: `n${i}-${port()}`, subnet: '10.80.0.0/24' };
      const made = await fetch(`http://127.0.0.1:${port()}/v1/networks`, {
        method: 'POST',
        headers: { authorization: 'Bearer admin.globex', 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      expect(made.headers.get('location')).toMatch(/^\/v1\/jobs\//);
    }
    const page = await ask(port(), 'globex.api.example.org', 'admin.globex', '/v1/networks?pageSize=1');
    expect(page.headers.link).toMatch(/^<\/v1\/networks\?.*>; rel="next"$/);
  });
});

describe('who asks', () => {
  test('is the client and not the proxy in the audit, whatever the client says', async () => {
    const refused = (port: number, requestId: string) =>
      fetch(`http://127.0.0.1:${port}/v1/networks`, {
        method: 'POST',
        headers: {
          authorization: 'Bearer viewer.acme',
          'content-type': 'application/json',
          'x-request-id': requestId,
          'x-forwarded-for': '6.6.6.6',
        },
        body: JSON.stringify({ name: 'x', subnet: '10.80.0.0/24' }),
      });
    expect((await refused(portOf(proxy), 'through-the-proxy')).status).toBe(403);
    expect((await refused(direct(), 'straight-there')).status).toBe(403);
    const rows = await platform.db.operator
      .selectFrom('audit')
      .select(['request_id', 'source'])
      .where('request_id', 'in', ['through-the-proxy', 'straight-there'])
      .orderBy('request_id')
      .execute();
    expect(rows).toEqual([
      { request_id: 'straight-there', source: '127.0.0.1' },
      { request_id: 'through-the-proxy', source: '192.0.2.7' },
    ]);
  });
});

describe('what is no host', () => {
  const auth = 'authorization: Bearer admin.acme\r\nconnection: close\r\n';
  test.each([
    ['two Hosts', 'host: acme.api.example.org\r\nhost: globex.api.example.org\r\n'],
    ['the same Host twice', 'host: api.example.org\r\nHOST: api.example.org\r\n'],
    ['no Host', ''],
    ['an empty Host', 'host:\r\n'],
    ['a control character', 'host: a\u0001b\r\n'],
    ['a tab', 'host: a\tb\r\n'],
    ['bytes over 127', 'host: b\u00fccher.example\r\n'],
    ['a path', 'host: a/v1\r\n'],
    ['a list', 'host: a, b\r\n'],
    ['a user', 'host: x@acme.api.example.org\r\n'],
    ['a port too large', 'host: a:65536\r\n'],
    ['a name too long', `host: ${'a'.repeat(300)}\r\n`],
  ])('%s: 400, a problem', async (_, hosts) => {
    for (const path of ['/v1/networks', '/v1/openapi.json', '/v1/nothing']) {
      const answer = await send(`GET ${path} HTTP/1.1\r\n${hosts}${auth}\r\n`);
      expect(answer).toMatch(/^HTTP\/1\.1 400 /);
      expect(answer).toContain('application/problem+json');
      expect(answer).toContain('"code":"malformed_request"');
    }
  });

  test('HTTP/1.0 needs none', async () => {
    expect(await send(`GET /v1/networks HTTP/1.0\r\n${auth}\r\n`)).toMatch(/^HTTP\/1\.1 200 /);
    expect(await send(`GET /v1/networks HTTP/1.0\r\nhost: globex.api.example.org\r\n${auth}\r\n`)).toMatch(
      /^HTTP\/1\.1 401 /,
    );
  });

  test('another host in the request line gets nobody past the Host', async () => {
    const line = 'GET http://acme.api.example.org/v1/networks HTTP/1.1';
    const answer = await send(`${line}\r\nhost: globex.api.example.org\r\n${auth}\r\n`);
    expect(answer).toMatch(/^HTTP\/1\.1 401 /);
  });

  test('an upgrade is refused like everything else', async () => {
    const upgrade = 'connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n';
    const key = 'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n';
    const path = 'GET /v1/instances/x/console/attach HTTP/1.1\r\n';
    const bearer = 'authorization: Bearer admin.acme\r\n';
    const foreign = await send(`${path}host: globex.api.example.org\r\n${bearer}${upgrade}${key}\r\n`);
    expect(foreign).toMatch(/^HTTP\/1\.1 401 /);
    const two = await send(`${path}host: a\r\nhost: b\r\n${bearer}${upgrade}${key}\r\n`);
    expect(two).toMatch(/^HTTP\/1\.1 400 /);
  });
});
