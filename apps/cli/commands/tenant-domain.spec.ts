/** `rhyzome tenant domain` on a real database: what it keeps, what it refuses, and what stands in the audit. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  for (const id of ['acme', 'globex']) await rhyzome.ok('tenant', 'create', id);
});
afterAll(() => rhyzome?.remove());

const domain = (...args: string[]) => rhyzome.run('tenant', 'domain', ...args);

it('adds, lists and removes domains, each once', async () => {
  expect(await rhyzome.json('tenant', 'domain', 'add', 'acme', 'API.Acme.example.')).toMatchObject({
    domain: 'api.acme.example',
    tenantId: 'acme',
    createdAt: expect.any(String),
  });
  expect((await domain('add', 'acme', 'api.acme.example')).out).toContain('already');
  expect(await rhyzome.ok('tenant', 'domain', 'list')).toMatch(/^DOMAIN +TENANT +SINCE\napi\.acme\.example +acme /);
  expect(await rhyzome.json('tenant', 'domain', 'list', 'globex')).toEqual([]);
  expect(await domain('add', 'globex', 'api.acme.example')).toMatchObject({
    status: 1,
    err: expect.stringContaining('another tenant'),
  });
  expect(await domain('remove', 'globex', 'api.acme.example')).toMatchObject({ status: 3 });
  expect(await rhyzome.json('tenant', 'domain', 'remove', 'acme', 'api.acme.example')).toEqual({
    domain: 'api.acme.example',
    tenantId: 'acme',
  });
  expect(await domain('remove', 'acme', 'api.acme.example')).toMatchObject({ status: 3 });
  const changes = (await rhyzome.audit('acme')).filter(({ action }) => action.startsWith('tenant.domain'));
  const details = { domain: 'api.acme.example' };
  expect(changes).toMatchObject([
    { action: 'tenant.domain.add', details },
    { action: 'tenant.domain.remove', details },
  ]);
});

it('refuses what is no domain, the installation’s own, and tenants that are not there', async () => {
  expect(await domain('add', 'acme', 'https://acme.example')).toMatchObject({ status: 2 });
  expect(await domain('add', 'nobody', 'api.nobody.example')).toMatchObject({ status: 3 });
  expect(await domain('list', 'nobody')).toMatchObject({ status: 3 });
  const { connections } = rhyzome;
  const config = rhyzome.settings({ ...connections, api: { domain: 'API.example.org' } }, 'with-domain.json');
  expect(await rhyzome.runWith({ config }, 'tenant', 'domain', 'add', 'acme', 'x.api.example.org')).toMatchObject({
    status: 1,
    err: expect.stringContaining('api.domain'),
  });
});
