/** `rhyzome placement` and `rhyzome node set` on a real database. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
const id = newId();
beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  await rhyzome.ok('tenant', 'create', 'acme');
  await rhyzome.db.operator
    .insertInto('node')
    .values({
      id,
      name: 'n1',
      driver: 'sim',
      agent_version: '1',
      kinds: ['instance'],
      vcpus: 10,
      memory_mib: 1000,
      disk_gib: 100,
    })
    .execute();
});
afterAll(() => rhyzome?.remove());

const promisable = async () => (await rhyzome.json('node', 'show', 'n1')).promisable;

describe('how much of nodes may be promised', () => {
  test('is eight times the processors and once the rest, until an administrator says otherwise', async () => {
    expect(await rhyzome.json('placement', 'show')).toEqual({
      vcpuOvercommit: 8,
      memoryOvercommit: 1,
      diskOvercommit: 1,
      memoryReserveMiB: 0,
      labels: [],
    });
    expect(await promisable()).toEqual({ vcpus: 80, memoryMiB: 1000, diskGiB: 100 });
    const rules = ['--vcpu-overcommit', '2.5', '--memory-overcommit', '1.5', '--disk-overcommit', '3'];
    const out = await rhyzome.ok('placement', 'set', ...rules, '--memory-reserve', '200', '--labels', 'zone,gpu,zone');
    expect(out).toMatch(/vcpu overcommit +2.5\n.*1.5\n.*3\nmemory reserve +200 MiB\nlabels +zone gpu/);
    expect(await promisable()).toEqual({ vcpus: 25, memoryMiB: 1200, diskGiB: 300 });
    expect((await rhyzome.json('placement', 'set', '--labels', 'none')).labels).toEqual([]);
  });

  test('is a node’s own where that is set, also below what is promised already', async () => {
    await rhyzome.db.operator
      .insertInto('reservation')
      .values({ tenant_id: 'acme', resource_id: newId(), node_id: id, vcpus: 12, memory_mib: 100, disk_gib: 1 })
      .execute();
    const own = ['--vcpu-overcommit', '1', '--memory-overcommit', '1', '--memory-reserve', '0'];
    expect(await rhyzome.ok('node', 'set', 'n1', ...own)).toBe(
      'Of node n1 10 vcpus, 1000 MiB and 300 GiB may be promised. More than that is promised already: vcpus; it gets nothing new.\n',
    );
    expect(await rhyzome.ok('node', 'show', 'n1')).toMatch(/vcpus +12\/10 reserved \(10 may be\)\n/);
    await rhyzome.ok('node', 'set', 'n1', '--vcpu-overcommit', 'default', '--memory-reserve', 'default');
    expect(await promisable()).toEqual({ vcpus: 25, memoryMiB: 800, diskGiB: 300 });
    expect(await rhyzome.ok('node', 'show', 'n1')).toMatch(
      /memory +100\/1000 MiB reserved \(800 may be, 200 MiB are never promised\)\n/,
    );
    const audit = await rhyzome.db.operator
      .selectFrom('audit')
      .select('action')
      .where('action', 'in', ['placement.set', 'node.set'])
      .execute();
    expect(audit).toHaveLength(4);
  });

  test.each([
    ['--vcpu-overcommit', '0.5'],
    ['--vcpu-overcommit', '101'],
    ['--memory-overcommit', '4.01'],
    ['--disk-overcommit', '1e1'],
    ['--memory-reserve', '-1'],
    [],
  ])('is refused with status 2: %s %s', async (...option) => {
    const before = await rhyzome.json('placement', 'show');
    expect((await rhyzome.run('placement', 'set', ...option)).status).toBe(2);
    expect((await rhyzome.run('node', 'set', 'n1', ...option)).status).toBe(2);
    expect(await rhyzome.json('placement', 'show')).toEqual(before);
  });

  test('names labels by keys only', async () => {
    expect((await rhyzome.run('placement', 'set', '--labels', 'a b')).status).toBe(2);
    expect((await rhyzome.run('placement', 'set', '--labels', '')).status).toBe(2);
  });
});
