import { execFile } from 'node:child_process';
import { mkdir, mkdtemp, readdir, rm, stat, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canBuildTiny, ensureTinyImage } from './index.js';

const ability = canBuildTiny();
if (!ability.ok) console.warn(`skipped: tiny image: ${ability.reason}`);

describe.skipIf(!ability.ok)('the tiny image', () => {
  let cache: string;
  beforeAll(async () => {
    cache = await mkdtemp(join(tmpdir(), 'rz-tiny-'));
    // The kernel is downloaded once a checkout.
    const kernels = resolve('.rhyzome/cache/kernel');
    await mkdir(kernels, { recursive: true });
    await symlink(kernels, join(cache, 'kernel'));
  });
  afterAll(() => rm(cache, { recursive: true, force: true }));

  it('is built once, small, and a qcow2 that stands by itself', async () => {
    const [one, other] = await Promise.all([ensureTinyImage(cache), ensureTinyImage(cache)]);
    expect(other).toBe(one);
    const { mtimeMs, size } = await stat(one);
    expect(size).toBeLessThan(16 * 1024 ** 2);
    expect(await ensureTinyImage(cache)).toBe(one);
    expect((await stat(one)).mtimeMs).toBe(mtimeMs);
    const { stdout } = await promisify(execFile)('qemu-img', ['info', '--output=json', one]);
    expect(JSON.parse(stdout)).toMatchObject({ format: 'qcow2', 'virtual-size': 24 * 1024 ** 2 });
    expect(JSON.parse(stdout)).not.toHaveProperty('backing-filename');
    expect((await readdir(cache)).filter((name) => name.startsWith('build.'))).toEqual([]);
  }, 240_000);
});
