/** `rhyzome disk` on a real database. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
});
afterAll(() => rhyzome?.remove());

it('shows and sets for how long deleted disks are kept, and leaves a row of it', async () => {
  expect(await rhyzome.json('disk', 'retention')).toEqual({ hours: 24 });
  expect(await rhyzome.ok('disk', 'retention', '--hours', '72')).toBe('Deleted disks are kept for 72 hours.\n');
  expect(await rhyzome.json('disk', 'retention', '--off')).toEqual({ hours: null });
  expect(await rhyzome.ok('disk', 'retention')).toBe('Deleted disks are not kept.\n');
  expect((await rhyzome.audit('system')).map(({ action, details }) => [action, details])).toEqual([
    ['disk.retention', { hours: 72 }],
    ['disk.retention', { hours: null }],
  ]);
});

it('refuses what is no number of hours', async () => {
  for (const value of ['0', '-1', 'many', '99999']) {
    expect((await rhyzome.run('disk', 'retention', '--hours', value)).status, value).toBe(2);
  }
  expect((await rhyzome.run('disk', 'retention', '--hours', '1', '--off')).status).toBe(2);
});
