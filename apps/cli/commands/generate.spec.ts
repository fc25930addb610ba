/** `rhyzome generate kind` in a copy of this checkout: what it makes builds, migrates and keeps the contract. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { runCli } from '../program.js';

const root = resolve(import.meta.dirname, '../../..');
const notSource = /^(node_modules|dist|dist\..*|\.git|\.rhyzome)$/;
let copy: string;

beforeAll(() => {
  // Not below this checkout, where the copy would find its packages by chance.
  copy = mkdtempSync(join(tmpdir(), 'rhyzome-kind-'));
  for (const entry of readdirSync(root)) {
    if (!notSource.test(entry)) cpSync(join(root, entry), join(copy, entry), { recursive: true });
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
});
afterAll(() => rmSync(copy, { recursive: true, force: true }));

async function generate(...args: string[]) {
  let out = '';
  let err = '';
  const status = await runCli(['generate', 'kind', ...args, '--dir', copy], {
    out: (text) => {
      out += text;
    },
    err: (text) => {
      err += text;
    },
  });
  return { status, out, err };
}

function run(program: string, ...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(copy, 'node_modules', program), ...args], {
    cwd: copy,
    encoding: 'utf8',
  });
  return { status, said: stdout + stderr };
}

/** Every source file with its digest. */
function tree(folder = copy): Record<string, string> {
  const found: Record<string, string> = {};
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (notSource.test(entry.name)) continue;
    if (entry.isDirectory()) Object.assign(found, tree(path));
    else found[path] = createHash('sha256').update(readFileSync(path)).digest('hex');
  }
  return found;
}

describe('rhyzome generate kind', () => {
  test.each([
    ['Key-Pair', 2, 'cannot be a kind’s name'],
    ['key--pair', 2, 'cannot be a kind’s name'],
    ['../network', 2, 'cannot be a kind’s name'],
    ['x'.repeat(41), 2, 'cannot be a kind’s name'],
    ['class', 2, 'a word of the language'],
    ['kinds', 2, 'a word of the language'],
    ['network', 1, 'The kind network is there already'],
    ['job', 1, 'The path /v1/jobs is there already'],
    ['lease', 1, 'The schema Lease is there already'],
    ['resource-tag', 1, 'The table resource_tag is there already'],
  ])('refuses %s', async (name, status, why) => {
    const outcome = await generate(name);
    expect(outcome).toMatchObject({ status, out: '' });
    expect(outcome.err).toContain(why);
  });

  test('refuses a plural that is taken, and one that is the name', async () => {
    expect(await generate('netz', '--plural', 'networks')).toMatchObject({ status: 1 });
    expect(await generate('sheep', '--plural', 'sheep')).toMatchObject({ status: 2 });
  });

  test('that fails on the way leaves the checkout as it was', { timeout: 120_000 }, async () => {
    const template = join(copy, 'templates/kind/migration.sql');
    const text = readFileSync(template, 'utf8');
    writeFileSync(template, text.replace('call wall_off', 'call no_such_procedure'));
    const before = tree();
    const outcome = await generate('water-meter');
    expect(outcome).toMatchObject({ status: 1, out: '' });
    expect(outcome.err).toContain('Nothing was written');
    expect(outcome.err).toContain('no_such_procedure');
    expect(tree()).toEqual(before);
    expect(readdirSync(join(copy, '.rhyzome/cache'))).toEqual([]);
    writeFileSync(template, text);
  });

  test('makes a kind that is whole: formatted, typed, migrated, within the contract', {
    timeout: 300_000,
  }, async () => {
    const before = tree();
    const outcome = await generate('water-meter', '--json');
    expect(outcome).toMatchObject({ status: 0, err: '' });
    const { files } = JSON.parse(outcome.out) as { files: string[] };
    const changed = Object.entries(tree()).filter(([path, digest]) => before[path] !== digest);
    expect(changed.map(([path]) => path.slice(copy.length + 1)).sort()).toEqual(files.toSorted());
    for (const file of files) expect(readFileSync(join(copy, file), 'utf8')).not.toMatch(/sample.?thing/i);
    const api = JSON.parse(readFileSync(join(copy, 'openapi.json'), 'utf8')) as { paths: object };
    expect(Object.keys(api.paths)).toContain('/v1/water-meters/{idOrName}');

    const format = run('@biomejs/biome/bin/biome', 'check', '--vcs-enabled=false', 'libs/kinds/water-meter');
    expect(format).toMatchObject({ status: 0 });
    const { said: types } = run('typescript7/bin/tsc', '-p', 'tsconfig.json', '--incremental', 'false');
    expect(types.split('\n').filter((line) => line.startsWith('libs/kinds/water-meter'))).toEqual([]);
    const suites = ['libs/kinds/contract.spec.ts', 'libs/kinds/water-meter'];
    const named = 'kind water-meter|says what it was told last';
    const reporter = ['--reporter=json', '--outputFile=report.json'];
    const tests = run('vitest/vitest.mjs', 'run', ...reporter, ...suites, '-t', named);
    expect(tests, tests.said.slice(-3_000)).toMatchObject({ status: 0 });
    const report = JSON.parse(readFileSync(join(copy, 'report.json'), 'utf8')) as { numPassedTests: number };
    expect(report.numPassedTests).toBeGreaterThan(20);
  });
});
