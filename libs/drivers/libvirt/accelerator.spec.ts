import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canHost, createRunner } from '#libs/drivers/host';
import { canBuildTiny, ensureTinyImage } from '../../../tools/tiny-image/index.js';
import { boots, probeAccelerator } from './accelerator.js';

const abilities = [await canHost(), canBuildTiny()];
const missing = abilities.flatMap((ability) => (ability.ok ? [] : [ability.reason]));
if (missing.length > 0) console.warn(`skipped: probing for KVM: ${missing.join('; ')}`);

describe.skipIf(missing.length > 0)('probing for KVM', () => {
  let dir: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'rz-probe-'));
  });
  afterAll(() => rm(dir, { recursive: true, force: true }));

  it('knows a machine that boots from one that does not', async () => {
    const image = await ensureTinyImage(resolve('.rhyzome/cache'));
    expect(await boots(createRunner(), { image }, 'tcg')).toBe(true);
    await writeFile(join(dir, 'kernel'), 'no kernel');
    expect(await boots(createRunner(), { kernel: join(dir, 'kernel') }, 'tcg')).toBe(false);
    expect(await boots(createRunner(), { image: join(dir, 'nothing') }, 'tcg')).toBe(false);
  }, 60_000);

  it('keeps what it found, and finds emulation where there is nothing to try', async () => {
    expect(await probeAccelerator(createRunner(), dir, null)).toBe('tcg');
    const first = await probeAccelerator(createRunner(), dir, { kernel: join(dir, 'kernel') });
    const kept = (await readdir(dir)).filter((name) => name.startsWith('accelerator-'));
    if (kept.length === 0) return; // There is no /dev/kvm.
    expect(first).toBe('tcg');
    await writeFile(join(dir, kept[0] as string), 'kvm');
    expect(await probeAccelerator(createRunner(), dir, { kernel: join(dir, 'kernel') })).toBe('kvm');
  }, 60_000);
});
