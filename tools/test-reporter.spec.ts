/** What `npm test` counts, from real runs of the runner over small test files. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';

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
  expect(counted).toMatchObject({
    passed: 2,
    failed: 1,
    skipped: [
      { name: 'a.spec.ts > needs root', reason: 'not root' },
      { name: 'a.spec.ts > is skipped', reason: '' },
    ],
    failures: ['a.spec.ts > fails'],
  });
});

it('counts a file that cannot be loaded, and a suite whose preparation fails, as failed', async () => {
  const counted = await count({
    'b.spec.ts': "throw new Error('broken file');",
    'c.spec.ts':
      "describe('suite', () => { beforeAll(() => { throw new Error('broken hook'); }); it('x', () => {}); });",
  });
  expect(counted.passed).toBe(0);
  expect(counted.failed).toBeGreaterThanOrEqual(2);
  expect(counted.failures.join()).toContain('broken file');
  expect(counted.failures.join()).toContain('broken hook');
});
