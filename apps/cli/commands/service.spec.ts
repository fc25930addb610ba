/** `rhyzome service` on a real database. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  await rhyzome.ok('tenant', 'create', 'acme');
  await rhyzome.ok('tenant', 'create', 'globex');
});
afterAll(() => rhyzome?.remove());

describe('rhyzome service', () => {
  it('gives rights, the same again without a change, others only when asked to', async () => {
    const create = ['service', 'create', 'billing', '--tenants', 'globex,acme'];
    const made = await rhyzome.json(...create, '--verbs', '*:read,network:*');
    expect(made).toMatchObject({ name: 'billing', tenants: ['acme', 'globex'], verbs: ['*:read', 'network:*'] });
    expect(await rhyzome.json(...create, '--verbs', 'network:*,*:read')).toEqual(made);
    const refused = await rhyzome.run(...create, '--verbs', '*');
    expect(refused).toMatchObject({ status: 1, err: expect.stringContaining('--replace') });
    expect(await rhyzome.json(...create, '--verbs', '*', '--replace')).toMatchObject({ verbs: ['*:*'] });
    expect(await rhyzome.json('service', 'update', 'billing', '--tenants', '*')).toMatchObject({
      tenants: ['*'],
      verbs: ['*:*'],
    });
    expect((await rhyzome.audit('system')).map(({ action }) => action)).toEqual([
      'service.create',
      'service.create',
      'service.update',
    ]);
  });

  it('lists, shows and removes', async () => {
    await rhyzome.ok('service', 'create', 'mon.example', '--tenants', 'acme', '--verbs', 'instance:read');
    const all = await rhyzome.json('service', 'list');
    expect(all).toContainEqual(await rhyzome.json('service', 'show', 'mon.example'));
    expect(await rhyzome.ok('service', 'list')).toMatch(/NAME +TENANTS +VERBS\n/);
    await rhyzome.ok('service', 'remove', 'mon.example');
    expect((await rhyzome.run('service', 'show', 'mon.example')).status).toBe(3);
    expect((await rhyzome.run('service', 'remove', 'mon.example')).status).toBe(3);
  });

  it('refuses what is no right', async () => {
    const cases: [string[], number, RegExp][] = [
      [['x', '--tenants', 'acme', '--verbs', 'network'], 2, /kind:verb/],
      [['x', '--tenants', 'acme', '--verbs', 'Network:read'], 2, /kind:verb/],
      [['x', '--tenants', 'acme,*', '--verbs', '*'], 2, /stands alone/],
      [['x', '--tenants', 'ACME', '--verbs', '*'], 2, /not a tenant id/],
      [['x', '--tenants', 'acme,nobody', '--verbs', '*'], 3, /no tenant nobody/],
      [['x', '--tenants', 'acme,', '--verbs', '*'], 2, /list like a,b/],
      [['-x', '--tenants', 'acme', '--verbs', '*'], 2, /./],
      [['X', '--tenants', 'acme', '--verbs', '*'], 2, /certificate/],
      [['x', '--tenants', 'acme'], 2, /required option/],
    ];
    for (const [args, status, message] of cases) {
      const outcome = await rhyzome.run('service', 'create', ...args);
      expect(outcome, args.join(' ')).toMatchObject({ status, out: '', err: expect.stringMatching(message) });
    }
    expect((await rhyzome.run('service', 'update', 'nobody', '--verbs', '*')).status).toBe(3);
    expect((await rhyzome.run('service', 'update', 'nobody')).status).toBe(2);
  });
});
