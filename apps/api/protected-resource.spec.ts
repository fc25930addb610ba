/** The API's own word on whose tokens it takes (RFC 9728), over real HTTP at the hosts of tenants and of nobody. */
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Database } from '#libs/db';
import { kinds } from '#libs/kinds';
import { Addressing } from '#libs/rest';
import { DomainCache, IssuerCache, type IssuerRow } from '#libs/tenants';
import { type Platform, startPlatform } from '#libs/testing';
import { ProtectedResource } from './protected-resource.js';
import { generous, serve } from './test-server.js';

const PATH = '/.well-known/oauth-protected-resource';
const row = (tenantId: string, issuer: string, more: Partial<IssuerRow> = {}): IssuerRow => ({
  issuer,
  organization: '',
  tenantId,
  tenantState: 'active',
  audience: null,
  jwksUri: null,
  ...more,
});

let platform: Platform;
let db: Database;
let statements: string[] = [];
let app: NestFastifyApplication;
let behind: NestFastifyApplication;
let rows: IssuerRow[];
let issuers: IssuerCache;

beforeAll(async () => {
  platform = await startPlatform({ kinds, workers: false });
  db = new Database({ app: platform.connection, onQuery: (text) => statements.push(text) });
  rows = [
    row('acme', 'https://id.example/realms/acme'),
    row('globex', 'https://id.example/realms/globex', { tenantState: 'suspended' }),
    row('initech', 'https://id.example/realms/shared', { organization: 'initech' }),
    row('umbrella', 'https://id.example/realms/shared', { organization: 'umbrella' }),
    row('umbrella', 'https://own.example'),
  ];
  issuers = new IssuerCache(async () => rows);
  await issuers.refresh();
  const domains = new DomainCache(async () => [{ domain: 'api.acme.example', tenantId: 'acme' }], 'api.example.org');
  await domains.refresh();
  const addressing = new Addressing((host) => domains.ownerOf(host));
  const issuersOf = (tenantId: string) => issuers.issuersOf(tenantId);
  app = await serve({ ...platform, db }, generous, { addressing, resource: new ProtectedResource(issuersOf) });
  const resource = new ProtectedResource(issuersOf, 'https://api.example.org');
  behind = await serve({ ...platform, db }, generous, { addressing, resource });
});
afterAll(async () => {
  await app?.close();
  await behind?.close();
  await db?.close();
  await platform?.close();
});

interface Told {
  status: number;
  headers: IncomingHttpHeaders;
  body: any;
}

/** fetch lets nobody choose a Host. */
function ask(host: string, path = PATH, server = app): Promise<Told> {
  const { port } = server.getHttpServer().address() as AddressInfo;
  return new Promise((done, fail) => {
    const sent = httpRequest({ port, path, headers: { host } }, (got) => {
      let text = '';
      got.on('data', (chunk) => (text += chunk));
      got.on('end', () => done({ status: got.statusCode!, headers: got.headers, body: JSON.parse(text) }));
    });
    sent.on('error', fail);
    sent.end();
  });
}

test('a tenant’s host names the tenant’s issuers, without a token and without a query', async () => {
  statements = [];
  const { status, headers, body } = await ask('acme.api.example.org');
  expect(status).toBe(200);
  expect(headers['content-type']).toMatch(/^application\/json/);
  expect(body).toEqual({
    resource: 'http://acme.api.example.org',
    authorization_servers: ['https://id.example/realms/acme'],
    bearer_methods_supported: ['header'],
    resource_name: 'Rhyzome',
    resource_documentation: 'http://acme.api.example.org/docs',
  });
  expect((await ask('API.acme.example:8443')).body).toMatchObject({
    resource: 'http://api.acme.example:8443',
    authorization_servers: ['https://id.example/realms/acme'],
  });
  expect((await ask('umbrella.api.example.org')).body.authorization_servers).toEqual([
    'https://id.example/realms/shared',
    'https://own.example',
  ]);
  expect(statements).toEqual([]);
});

test('a host of nobody, of an absent and of a suspended tenant name none', async () => {
  for (const host of [
    'absent.api.example.org',
    'globex.api.example.org',
    'a.b.api.example.org',
    '127.0.0.1',
    'x.example',
  ])
    expect((await ask(host)).body).toEqual({
      resource: `http://${host}`,
      bearer_methods_supported: ['header'],
      resource_name: 'Rhyzome',
      resource_documentation: `http://${host}/docs`,
    });
});

test('behind a proxy that ends TLS the public scheme counts', async () => {
  expect((await ask('acme.api.example.org', PATH, behind)).body.resource).toBe('https://acme.api.example.org');
  const { headers } = await ask('acme.api.example.org', '/v1/networks', behind);
  expect(headers['www-authenticate']).toBe(
    'Bearer realm="rhyzome", resource_metadata="https://acme.api.example.org/.well-known/oauth-protected-resource"',
  );
});

test('a tenant that is suspended or moves is told anew', async () => {
  rows = [row('acme', 'https://id.example/realms/shared', { organization: 'acme' })];
  await issuers.refresh();
  expect((await ask('acme.api.example.org')).body.authorization_servers).toEqual(['https://id.example/realms/shared']);
  rows = [row('acme', 'https://id.example/realms/shared', { organization: 'acme', tenantState: 'suspended' })];
  await issuers.refresh();
  expect((await ask('acme.api.example.org')).body).not.toHaveProperty('authorization_servers');
});

test('it takes no parameters and no other methods', async () => {
  expect((await ask('x.example', `${PATH}?tenant=acme`)).status).toBe(422);
  expect((await ask('x.example', `${PATH}/v1`)).status).toBe(401);
});
