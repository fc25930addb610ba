/** When `npm start` and `npm test` install: not too seldom, and not at every start. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
// @ts-expect-error plain JavaScript, since it runs before there is a compiler
import { whyInstall } from './bootstrap.mjs';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rhyzome-bootstrap-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

function lock(packages: Record<string, object>): void {
  writeFileSync(join(folder, 'package-lock.json'), JSON.stringify({ packages: { '': {}, ...packages } }));
}

/** As npm leaves it at the end of an installation. */
function install(packages: Record<string, object>): void {
  mkdirSync(join(folder, 'node_modules'), { recursive: true });
  writeFileSync(join(folder, 'node_modules', '.package-lock.json'), JSON.stringify({ packages }));
}

describe('whyInstall', () => {
  it('is satisfied with what the lock file says, platform packages left out', () => {
    lock({ 'node_modules/a': { version: '1.0.0' }, 'node_modules/b-win32': { version: '1.0.0', optional: true } });
    install({ 'node_modules/a': { version: '1.0.0' } });
    expect(whyInstall(folder)).toBeUndefined();
  });

  it('says what is missing or of another version', () => {
    lock({ 'node_modules/a': { version: '2.0.0' } });
    expect(whyInstall(folder)).toBe('node_modules is missing');
    mkdirSync(join(folder, 'node_modules'));
    expect(whyInstall(folder)).toBe('node_modules is not whole');
    install({ 'node_modules/a': { version: '1.0.0' } });
    expect(whyInstall(folder)).toBe('a is not what the lock file says');
    install({});
    expect(whyInstall(folder)).toBe('a is not what the lock file says');
  });

  it('leaves a linked node_modules to its owner', () => {
    const other = join(folder, 'other');
    mkdirSync(other);
    lock({ 'node_modules/a': { version: '1.0.0' } });
    symlinkSync(other, join(folder, 'node_modules'));
    expect(whyInstall(folder)).toBeUndefined();
    rmSync(join(folder, 'node_modules'));
    cpSync(other, join(folder, 'node_modules'), { recursive: true });
    expect(whyInstall(folder)).toBeDefined();
  });
});
