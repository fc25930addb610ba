/** `rhyzome quota` on a real database: what it sets, shows and refuses, and what new tenants begin with. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
});
afterAll(() => rhyzome?.remove());

describe('rhyzome quota', () => {
  it('sets, changes, shows and takes away limits', async () => {
    await rhyzome.ok('tenant', 'create', 'acme');
    const set = await rhyzome.json('quota', 'set', 'acme', 'instances=3', 'memoryMiB=65536');
    expect(set).toEqual([
      { tenantId: 'acme', name: 'instances', max: 3, used: 0 },
      { tenantId: 'acme', name: 'memoryMiB', max: 65536, used: 0 },
    ]);
    await rhyzome.ok('quota', 'set', 'acme', 'instances=0');
    await rhyzome.ok('quota', 'unset', 'acme', 'memoryMiB', 'networks');
    expect(await rhyzome.json('quota', 'list', 'acme')).toEqual([
      { tenantId: 'acme', name: 'instances', max: 0, used: 0 },
    ]);
    expect(await rhyzome.ok('quota', 'list')).toMatch(/^TENANT +QUOTA +MAX +USED +LEFT\nacme +instances +0 +0 +0\n$/);
    expect((await rhyzome.audit('acme')).map(({ action, details }) => [action, details])).toEqual([
      ['tenant.create', expect.anything()],
      ['quota.set', { tenant: 'acme', instances: 3, memoryMiB: 65536 }],
      ['quota.set', { tenant: 'acme', instances: 0 }],
      ['quota.unset', { tenant: 'acme', names: ['memoryMiB', 'networks'] }],
    ]);
  });

  it('gives new tenants the defaults, and old ones nothing', async () => {
    await rhyzome.ok('tenant', 'create', 'old');
    expect(await rhyzome.json('quota', 'default', 'networks=5')).toEqual([
      { tenantId: '*', name: 'networks', max: 5, used: null },
    ]);
    await rhyzome.ok('quota', 'set', '*', 'vcpus=8');
    await rhyzome.ok('tenant', 'create', 'young');
    expect(await rhyzome.json('quota', 'list', 'old')).toEqual([]);
    expect(await rhyzome.json('quota', 'list', 'young')).toEqual([
      { tenantId: 'young', name: 'networks', max: 5, used: 0 },
      { tenantId: 'young', name: 'vcpus', max: 8, used: 0 },
    ]);
    await rhyzome.ok('quota', 'unset', '*', 'networks', 'vcpus');
    expect(await rhyzome.json('quota', 'list', '*')).toEqual([]);
    // The limits go with their tenant.
    await rhyzome.ok('tenant', 'delete', 'young');
    await rhyzome.ok('tenant', 'create', 'young');
    expect(await rhyzome.json('quota', 'list', 'young')).toEqual([]);
  });

  it('refuses with a status and a line that say why', async () => {
    await rhyzome.ok('tenant', 'create', 'one');
    const cases: [string[], number, RegExp][] = [
      [['quota', 'set', 'one', 'unicorns=3'], 2, /unicorns.*there are .*instances/],
      [['quota', 'set', 'one', 'instances'], 2, /NAME=MAX/],
      [['quota', 'set', 'one', 'instances=-1'], 2, /NAME=MAX/],
      [['quota', 'set', 'one', 'instances=1.5'], 2, /NAME=MAX/],
      [['quota', 'set', 'one', 'instances=1', 'instances=2'], 2, /stands twice/],
      [['quota', 'set', 'one'], 2, /missing required argument/],
      [['quota', 'set', 'nobody', 'instances=1'], 3, /no tenant “nobody”/],
      [['quota', 'unset', 'nobody', 'instances'], 3, /no tenant/],
      [['quota', 'unset', 'one', 'unicorns'], 2, /unicorns/],
      [['quota', 'list', 'nobody'], 3, /no tenant/],
      [['quota', 'set', 'system', 'images=1'], 1, /no limits/],
    ];
    for (const [args, status, message] of cases) {
      const outcome = await rhyzome.run(...args);
      expect(outcome, args.join(' ')).toMatchObject({ status, out: '', err: expect.stringMatching(message) });
    }
    expect(await rhyzome.json('quota', 'list', 'one')).toEqual([]);
  });
});
