/** What `npm test` counts, from real runs of the runner over small test files. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
// @ts-expect-error plain JavaScript, as what uses it
import { figuresOf, filesToRepeat, withRepetition } from './test-results.mjs';

const root = resolve(import.meta.dirname, '..');
let folder: string;
beforeEach(() => {
  // Below the checkout, so that the files find vitest.
  folder = mkdtempSync(join(root, '.rhyzome/cache/reporter-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

async function count(files: Record<string, string>) {
  for (const [name, content] of Object.entries(files))
    writeFileSync(join(folder, name), `import { beforeAll, describe, expect, it } from 'vitest';\n${content}`);
  writeFileSync(join(folder, 'vitest.config.mjs'), 'export default {};');
  const result = join(folder, 'result.json');
  const args = ['run', '--root', folder, '--reporter', join(root, 'tools/test-reporter.mjs')];
  await new Promise((done) =>
    execFile(
      process.execPath,
      [join(root, 'node_modules/vitest/vitest.mjs'), ...args],
      { cwd: folder, env: { ...process.env, RHYZOME_TEST_RESULT: result } },
      done,
    ),
  );
  return JSON.parse(readFileSync(result, 'utf8'));
}

it('counts passed, failed and skipped tests, the last with their reasons', async () => {
  const counted = await count({
    'a.spec.ts': `
      it('passes', () => expect(1).toBe(1));
      it('fails', () => expect(1).toBe(2));
      it('needs root', (context) => context.skip('not root'));
      it.skip('is skipped', () => {});
      describe('in', () => it('passes too', () => {}));`,
  });
  const file = {
    passed: 2,
    skipped: [
      { name: 'a.spec.ts > needs root', reason: 'not root' },
      { name: 'a.spec.ts > is skipped', reason: '' },
    ],
    failures: ['a.spec.ts > fails'],
  };
  expect(counted).toEqual({ failures: [], files: { 'a.spec.ts': file } });
  expect(figuresOf(counted)).toEqual({ ...file, failed: 1, unsteady: [] });
});

it('counts a file that cannot be loaded, and a suite whose preparation fails, as failed', async () => {
  const counted = await count({
    'b.spec.ts': "throw new Error('broken file');",
    'c.spec.ts':
      "describe('suite', () => { beforeAll(() => { throw new Error('broken hook'); }); it('x', () => {}); });",
  });
  const { passed, failed, failures } = figuresOf(counted);
  expect(passed).toBe(0);
  expect(failed).toBeGreaterThanOrEqual(2);
  expect(failures.join()).toContain('broken file');
  expect(failures.join()).toContain('broken hook');
  expect(filesToRepeat(counted)).toEqual(['b.spec.ts', 'c.spec.ts']);
});

it('counts what nobody has caught as failed, of the file that it comes from', async () => {
  const counted = await count({
    'd.spec.ts': "it('passes', () => void Promise.reject(new Error('nobody awaits it')));",
    'e.spec.ts': "it('passes', () => {});",
  });
  expect(figuresOf(counted)).toMatchObject({ passed: 2, failed: 1 });
  expect(counted.files['d.spec.ts'].failures).toEqual([expect.stringContaining('nobody awaits it')]);
  expect(filesToRepeat(counted)).toEqual(['d.spec.ts']);
});

const file = (...failures: string[]) => ({ passed: 1, skipped: [], failures });

it('says what passed only when it was run once more, and fails what failed twice', () => {
  const first = { failures: [], files: { a: file('a > x', 'a > y'), b: file('b > z'), c: file() } };
  const second = { failures: [], files: { a: file(), b: file('b > z') } };
  expect(figuresOf(withRepetition(first, second))).toEqual({
    passed: 3,
    failed: 1,
    skipped: [],
    failures: ['b > z'],
    unsteady: ['a > x', 'a > y'],
  });
});

it('runs nothing once more where it is not single files that failed', () => {
  const broken = Object.fromEntries(Array.from({ length: 6 }, (_, i) => [`${i}`, file('x')]));
  expect(filesToRepeat({ failures: [], files: broken })).toEqual([]);
  expect(filesToRepeat({ failures: ['the runner broke'], files: { a: file('x') } })).toEqual([]);
  expect(filesToRepeat({ failures: [], files: { a: file(), b: file() } })).toEqual([]);
});
