/** The placeholder is what it says it is, to QEMU too. */

import { spawnSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { inspectImage } from '#libs/storage';
import { PLACEHOLDER_SHA256, placeholderContent, placeholderImage } from './placeholder.js';

it('never changes its bytes: installations know it by this digest', () => {
  expect(PLACEHOLDER_SHA256).toBe('0f8082936cc1bc88052dcd54bd7ed1e94392e055adc7f45914a6e3d7c9c8fcbc');
});

it('is a raw disk that qemu-img accepts', async (context) => {
  if (spawnSync('qemu-img', ['--version']).status !== 0) context.skip('qemu-img is not installed (Debian: qemu-utils)');
  const dir = await mkdtemp(join(tmpdir(), 'rhyzome-placeholder-'));
  try {
    const file = join(dir, 'image');
    for await (const chunk of placeholderContent()) await writeFile(file, chunk);
    expect(await inspectImage(file)).toEqual(placeholderImage);
  } finally {
    await rm(dir, { recursive: true });
  }
});
