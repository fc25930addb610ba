/** `rhyzome image` on a real database and a real content store. */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
});
afterAll(() => rhyzome?.remove());

const stored = (sha256: string) => join(rhyzome.dir, 'storage', sha256.slice(0, 2), sha256.slice(2, 4), sha256);
const digest = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex');

async function instanceOf(image: string) {
  const id = newId();
  const core = { tenant_id: 'acme', id, kind: 'instance', name: `vm-${id.slice(-6)}`, state: 'ready', created_by: 'x' };
  await rhyzome.db.operator.insertInto('resource').values(core).execute();
  await rhyzome.db.operator
    .insertInto('dependency')
    .values({
      tenant_id: 'acme',
      resource_id: id,
      target_tenant_id: 'system',
      target_id: image,
      relation: 'boots from',
    })
    .execute();
  const machine = { vcpus: 1, memory_mib: 64, desired_power_state: 'stopped', restart_policy: 'stay' };
  await rhyzome.db.operator
    .insertInto('instance')
    .values({ tenant_id: 'acme', id, image_id: image, ...machine })
    .execute();
  return core;
}

describe('rhyzome image with a placeholder', () => {
  it('imports it without QEMU, and the same again without a change', async () => {
    const made = await rhyzome.json(
      'image',
      'import',
      'tiny',
      '--placeholder',
      '--tag',
      'a=1',
      '--os-info',
      'family=none',
    );
    expect(made).toMatchObject({
      ...{ name: 'tiny', state: 'ready', format: 'raw', placeholder: true },
      ...{ tags: { a: '1' }, osInfo: { family: 'none' } },
    });
    expect(digest(stored(made.sha256))).toBe(made.sha256);
    expect(await rhyzome.json('image', 'import', 'tiny', '--placeholder')).toEqual(made);
    expect(await rhyzome.json('image', 'import', 'tiny', '--placeholder', '--tag', 'a=1')).toEqual(made);
    const changed = await rhyzome.json('image', 'import', 'tiny', '--placeholder', '--tag', 'b=2');
    expect(changed).toMatchObject({ id: made.id, tags: { b: '2' }, osInfo: { family: 'none' } });
    expect(await rhyzome.json('image', 'list')).toEqual([changed]);
    expect(await rhyzome.json('image', 'show', 'tiny')).toEqual(changed);
    expect(await rhyzome.json('image', 'show', made.id)).toEqual(changed);
    expect(await rhyzome.ok('image', 'list')).toMatch(/tiny +\S+ +raw +65536 +65536 +[0-9a-f]{12} +placeholder/);
    const rows = await rhyzome.audit('system');
    expect(rows.map(({ action, resource_name }) => [action, resource_name])).toEqual([
      ['image.import', 'tiny'],
      ['image.import', 'tiny'],
    ]);
  });

  it('removes it only when no instance of any tenant uses it, and its content with the last image', async () => {
    await rhyzome.ok('tenant', 'create', 'acme');
    const { id, sha256 } = await rhyzome.json('image', 'import', 'used', '--placeholder');
    const vm = await instanceOf(id);
    const refused = await rhyzome.run('image', 'remove', 'used');
    expect(refused).toMatchObject({
      status: 1,
      err: `rhyzome: The image used is in use:\n  instance ${vm.name} of tenant acme (${vm.id})\n`,
    });
    await rhyzome.db.operator.deleteFrom('resource').where('id', '=', vm.id).execute();
    await rhyzome.ok('image', 'remove', 'used');
    expect(existsSync(stored(sha256))).toBe(true); // `tiny` has the same content
    await rhyzome.ok('image', 'remove', 'tiny');
    expect(existsSync(stored(sha256))).toBe(false);
    expect((await rhyzome.run('image', 'remove', 'tiny')).status).toBe(3);
    expect(await rhyzome.json('image', 'list')).toEqual([]);
    expect((await rhyzome.audit('system')).at(-1)).toMatchObject({ action: 'image.remove', details: { sha256 } });
  });

  it('is imported once by two at the same time', async () => {
    const both = await Promise.all([1, 2].map(() => rhyzome.json('image', 'import', 'twice', '--placeholder')));
    expect(both[0]).toEqual(both[1]);
    await rhyzome.ok('image', 'remove', 'twice');
  });

  it('sweeps content without an image, but not what may still get one', async () => {
    const { sha256 } = await rhyzome.json('image', 'import', 'kept', '--placeholder');
    const orphan = 'ab'.repeat(32);
    mkdirSync(join(stored(orphan), '..'), { recursive: true });
    writeFileSync(stored(orphan), 'left behind');
    expect(await rhyzome.json('image', 'sweep')).toEqual({ contents: [], temporary: 0 });
    const twoHoursAgo = Date.now() / 1000 - 7200;
    for (const file of [orphan, sha256]) utimesSync(stored(file), twoHoursAgo, twoHoursAgo);
    expect(await rhyzome.json('image', 'sweep')).toEqual({
      contents: [{ sha256: orphan, sizeBytes: 11 }],
      temporary: 0,
    });
    expect([orphan, sha256].map((file) => existsSync(stored(file)))).toEqual([false, true]);
  });

  it('refuses what is no image', async () => {
    const text = join(rhyzome.dir, 'text');
    writeFileSync(text, 'not a disk');
    const cases: [string[], number, RegExp][] = [
      [['x'], 2, /Name a file, or --placeholder/],
      [['x', text, '--placeholder'], 2, /Name a file, or --placeholder/],
      [['X', '--placeholder'], 2, /\/name: /],
      [['x', '--placeholder', '--tag', '-=1'], 2, /\/tags: /],
      [['x', join(rhyzome.dir, 'absent')], 3, /cannot be read \(ENOENT\)/],
      [['x', rhyzome.dir], 2, /is not a file/],
      [['x', text], 2, /neither qcow2 nor a raw disk/],
      [['x', text, '--sha256', '00'.repeat(32)], 2, /not the one that was given/],
    ];
    for (const [args, status, message] of cases) {
      const outcome = await rhyzome.run('image', 'import', ...args);
      expect(outcome, args.join(' ')).toMatchObject({ status, out: '', err: expect.stringMatching(message) });
    }
    expect(existsSync(stored(digest(text)))).toBe(false);
    const config = rhyzome.settings(rhyzome.connections, 'no-storage.json');
    expect(await rhyzome.runWith({ config }, 'image', 'import', 'x', '--placeholder')).toMatchObject({
      status: 78,
      err: expect.stringContaining('/storage: is missing'),
    });
  });
});

const hasQemu = spawnSync('qemu-img', ['--version']).status === 0;

describe('rhyzome image with files', () => {
  beforeEach((context) => {
    if (!hasQemu) context.skip('qemu-img is not installed (Debian: qemu-utils)');
  });

  const qcow2 = (name: string, size: string, ...options: string[]) => {
    const file = join(rhyzome.dir, name);
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, file, size]);
    return file;
  };

  it('imports a qcow2, refuses other content under its name, and replaces it when asked to', async () => {
    const [one, two] = [qcow2('one.qcow2', '10M'), qcow2('two.qcow2', '20M')];
    const made = await rhyzome.json('image', 'import', 'disk', one, '--sha256', digest(one));
    expect(made).toMatchObject({
      format: 'qcow2',
      virtualSizeBytes: 10 * 2 ** 20,
      sha256: digest(one),
      placeholder: false,
    });
    const refused = await rhyzome.run('image', 'import', 'disk', two);
    expect(refused).toMatchObject({ status: 1, err: expect.stringContaining('--replace') });
    expect(existsSync(stored(digest(two)))).toBe(false);
    const vm = await instanceOf(made.id);
    expect((await rhyzome.run('image', 'import', 'disk', two, '--replace')).err).toContain('is in use');
    await rhyzome.db.operator.deleteFrom('resource').where('id', '=', vm.id).execute();
    const replaced = await rhyzome.json('image', 'import', 'disk', two, '--replace');
    expect(replaced).toMatchObject({ id: made.id, virtualSizeBytes: 20 * 2 ** 20, sha256: digest(two) });
    expect([one, two].map((file) => existsSync(stored(digest(file))))).toEqual([false, true]);
  });

  it('takes a raw disk by its boot sector or by --raw, and no qcow2 that names another file', async () => {
    const raw = join(rhyzome.dir, 'raw.img');
    writeFileSync(raw, Buffer.alloc(1024, 1));
    expect((await rhyzome.run('image', 'import', 'raw', raw)).status).toBe(2);
    expect(await rhyzome.json('image', 'import', 'raw', raw, '--raw')).toMatchObject({
      format: 'raw',
      sizeBytes: 1024,
    });
    const backed = qcow2('backed.qcow2', '10M', '-b', '/etc/passwd', '-F', 'raw', '-u');
    const outcome = await rhyzome.run('image', 'import', 'backed', backed);
    expect(outcome).toMatchObject({ status: 2, err: expect.stringContaining('backing file') });
    expect(existsSync(stored(digest(backed)))).toBe(false);
  });
});
