/** Storage that two machines share: what it is known by, whose a file is, and what nobody may do to another's. */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { SharedStorage } from './shared-storage.js';

let root: string;
let dir: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'rz-shared-'));
  dir = join(root, 'pool');
  for (const name of ['pool', 'one', 'two']) await mkdir(join(root, name));
});
afterEach(() => rm(root, { recursive: true, force: true }));

const open = (machine: string, at = dir, name = 'pool-a') =>
  SharedStorage.open({ name, dir: at }, { installation: '0a1b2c3d', stateDir: join(root, machine) });

describe('shared storage', () => {
  it('is the same for all that see it, also when several are the first', async () => {
    const all = await Promise.all([open('one'), open('two'), open('one'), open('two')]);
    expect(new Set(all.map(({ id }) => id)).size).toBe(1);
    expect(await readdir(join(dir, 'rhyzome-0a1b2c3d'))).toEqual(['storage.json']);
  });

  it('is made by nobody who knew it before: then it is not mounted', async () => {
    await open('one');
    await rename(dir, `${dir}-away`);
    await expect(open('one')).rejects.toMatchObject({ code: 'storage_missing' });
    await mkdir(dir);
    await expect(open('one')).rejects.toMatchObject({ code: 'storage_missing' });
    expect(await readdir(dir)).toEqual([]);
    // A new machine cannot know, and makes it another one; that is no longer the first machine's.
    await open('two');
    await expect(open('one')).rejects.toMatchObject({ code: 'storage_differs', permanent: true });
    await expect(open('two', dir, 'pool-b')).rejects.toMatchObject({ code: 'storage_differs' });
  });

  it('lets a file be one node’s at a time, and be taken only from those that are named', async () => {
    const [one, two] = [await open('one'), await open('two')];
    await one.take('disk-1', 'node-1', []);
    await one.take('disk-1', 'node-1', []);
    await expect(two.take('disk-1', 'node-2', [])).rejects.toMatchObject({ code: 'not_ours' });
    await expect(two.take('disk-1', 'node-2', ['node-3'])).rejects.toMatchObject({ code: 'not_ours' });
    await two.take('disk-1', 'node-2', ['node-3', 'node-1']);
    expect(await one.ownerOf('disk-1')).toBe('node-2');
    await expect(one.require('disk-1', 'node-1')).rejects.toMatchObject({ code: 'not_ours' });
    await expect(one.require('disk-2', 'node-1')).rejects.toMatchObject({ code: 'not_ours' });
  });

  it('loses a file only by the node whose it is, however often that is asked', async () => {
    const [one, two] = [await open('one'), await open('two')];
    await one.take('disk-1', 'node-1', []);
    const file = join(one.folder('disk-1'), 'disk.qcow2');
    await writeFile(file, 'of a tenant');
    await two.release('disk-1', 'node-2');
    expect(existsSync(file)).toBe(true);
    await two.take('disk-1', 'node-2', ['node-1']);
    await one.release('disk-1', 'node-1');
    expect(existsSync(file)).toBe(true);
    await two.release('disk-1', 'node-2');
    expect(existsSync(two.folder('disk-1'))).toBe(false);
    await two.release('disk-1', 'node-2');
  });

  it('refuses a disk of another storage', async () => {
    const one = await open('one');
    const place = { node: 'node-1', takeFrom: [] };
    one.check({ storage: 'pool-a', storageId: one.id, ...place });
    for (const wrong of [
      { storage: 'pool-b', storageId: one.id },
      { storage: 'pool-a', storageId: 'another' },
    ]) {
      expect(() => one.check({ ...wrong, ...place })).toThrow(/shared storage/);
    }
  });

  it('has an image whole or not at all', async () => {
    const [one, two] = [await open('one'), await open('two')];
    const image = join(root, 'image');
    await writeFile(image, 'content');
    expect(await two.hasImage('sha', 7)).toBe(false);
    await Promise.all([one.putImage('sha', image), two.putImage('sha', image)]);
    expect(await two.hasImage('sha', 7)).toBe(true);
    expect(await readdir(one.images)).toEqual(['sha']);
  });
});
