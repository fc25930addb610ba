import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { placeholderQcow2 } from './placeholder-qcow2.js';

const hasQemu = (() => {
  try {
    execFileSync('qemu-img', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();
if (!hasQemu)
  console.warn('skipped: placeholder qcow2: qemu-img is missing; tools/install-debian-packages.sh installs it');

test.skipIf(!hasQemu).each([512, 10 * 1024 ** 3, 16 * 1024 ** 4])('a disk of %i bytes is right in form', (size) => {
  const dir = mkdtempSync(join(tmpdir(), 'rhyzome-qcow2-'));
  try {
    const path = join(dir, 'disk.qcow2');
    writeFileSync(path, placeholderQcow2(size, 'image:abc'));
    const json = (...argv: string[]) =>
      JSON.parse(execFileSync('qemu-img', [...argv, '--output=json', path]).toString());
    expect(json('info')).toMatchObject({ format: 'qcow2', 'virtual-size': size });
    expect(json('check')).toMatchObject({ 'check-errors': 0 });
    expect(json('check')).not.toHaveProperty('corruptions');
    expect(json('check')).not.toHaveProperty('leaks');
  } finally {
    rmSync(dir, { recursive: true });
  }
});
