// `npm test`: all that must hold, on a fresh clone: installs what is missing, then lint, types, import rules, generated
// files, build, unit and database tests, end-to-end tests. A word after `--` runs a part: the name of a check, or a filter
// for test files. Ends with what was skipped and why, and one line of figures.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { install, projectEnvironment, projectNode, root } from './bootstrap.mjs';
import { figuresOf, filesToRepeat, withRepetition } from './test-results.mjs';

const node = () => projectNode();
const bin = (name) => join(root, 'node_modules', '.bin', name);
const present = (...folders) => folders.filter((folder) => existsSync(join(root, folder)));
/** The native compiler: the same answers in a fraction of the time. `npm run check:types` asks the other one. */
const nativeCompiler = join(root, 'node_modules', 'typescript7', 'bin', 'tsc');

/** Each check is a command; status 0 is passed. The build comes before what runs from dist/. */
const checks = [
  { name: 'lint', command: () => [bin('biome'), ['check', '--error-on-warnings', '.']] },
  { name: 'types', command: () => [node(), [nativeCompiler, '-p', 'tsconfig.json']] },
  {
    name: 'imports',
    command: () => [bin('depcruise'), ['--config', '.dependency-cruiser.cjs', ...present('apps', 'libs', 'bench')]],
  },
  { name: 'build', command: () => [node(), ['tools/build.mjs']] },
  { name: 'generated', command: () => [node(), ['tools/generate.mjs', '--check']] },
];

/** Each suite is one run of vitest: everything that `include` of vitest.config.ts has, but for what is excluded here. */
const suites = [
  { name: 'unit and database tests', exclude: ['test/**', 'libs/drivers/**'], flags: [] },
  // One file at a time: these boot machines and start whole stacks; two of them at once would only wait for each other.
  {
    name: 'tests of drivers in hosts of their own',
    exclude: ['apps/**', 'tools/**', 'bench/**', 'test/**', 'libs/!(drivers)/**'],
    flags: ['--no-file-parallelism'],
  },
  {
    name: 'end-to-end tests',
    exclude: ['apps/**', 'tools/**', 'bench/**', 'libs/**'],
    flags: ['--no-file-parallelism'],
  },
];

function run(command, args, environment = {}) {
  const { status, error, signal } = spawnSync(command, args, {
    cwd: root,
    env: { ...projectEnvironment(), ...environment },
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  if (error) console.error(`${command}: ${error.message}`);
  if (signal === 'SIGINT' || signal === 'SIGTERM') process.exit(130);
  return status === 0;
}

function timed(name, work) {
  console.log(`\n── ${name}`);
  const started = Date.now();
  const result = work();
  console.log(`── ${name}: ${((Date.now() - started) / 1000).toFixed(1)} s`);
  return result;
}

/** One run of vitest, as its reporter counted it. No figures: it broke before it could count. */
function runFiles({ name, exclude, flags }, filters) {
  const resultFile = join(root, '.rhyzome', 'cache', `test-result-${process.pid}.json`);
  mkdirSync(join(root, '.rhyzome', 'cache'), { recursive: true });
  rmSync(resultFile, { force: true });
  const reporters = ['--reporter=default', '--reporter=./tools/test-reporter.mjs'];
  const excludes = exclude.flatMap((pattern) => ['--exclude', pattern]);
  const args = ['run', '--passWithNoTests', ...reporters, ...flags, ...excludes, ...filters];
  const ok = timed(name, () => run(bin('vitest'), args, { RHYZOME_TEST_RESULT: resultFile }));
  if (!existsSync(resultFile)) return { failures: [`${name}: the runner broke`], files: {} };
  const result = JSON.parse(readFileSync(resultFile, 'utf8'));
  rmSync(resultFile);
  if (!ok && figuresOf(result).failed === 0) result.failures.push(`${name}: the runner ended with an error`);
  return result;
}

/** Figures of a suite. Files that failed are run once more by themselves: what fails twice fails. */
function runSuite(suite, filters) {
  const first = runFiles(suite, filters);
  const again = filesToRepeat(first);
  if (again.length === 0) return figuresOf(first);
  const second = runFiles({ ...suite, name: `${suite.name}, once more: ${again.join(', ')}` }, again);
  return figuresOf(withRepetition(first, second));
}

function main(filters) {
  install();
  const total = { passed: 0, failed: 0, skipped: [], failures: [], unsteady: [] };
  const named = checks.filter(({ name }) => filters.includes(name));
  const onlyChecks = filters.length > 0 && named.length === filters.length;
  // A filter for tests still needs dist/ fresh.
  const chosen = filters.length === 0 ? checks : onlyChecks ? named : checks.filter(({ name }) => name === 'build');
  for (const { name, command } of chosen) {
    const [program, args] = command();
    if (timed(name, () => run(program, args))) total.passed += 1;
    else {
      total.failed += 1;
      total.failures.push(name);
    }
  }
  let tests = onlyChecks ? 1 : 0;
  for (const suite of onlyChecks ? [] : suites) {
    const result = runSuite(suite, filters);
    tests += result.passed + result.failed;
    total.passed += result.passed;
    total.failed += result.failed;
    total.skipped.push(...result.skipped);
    total.failures.push(...result.failures);
    total.unsteady.push(...result.unsteady);
  }
  if (tests === 0) {
    total.failed += 1;
    total.failures.push('no test ran');
  }
  summarize(total);
  return total.failed === 0 ? 0 : 1;
}

function summarize({ passed, failed, skipped, failures, unsteady }) {
  console.log('');
  if (skipped.length > 0) console.log('Skipped:');
  for (const { name, reason } of skipped) console.log(`  ${name}${reason ? `: ${reason}` : ''}`);
  if (unsteady.length > 0) console.log('Passed only when run once more (counted as passed; each wants a look):');
  for (const name of unsteady) console.log(`  ${name}`);
  if (failures.length > 0) console.log('Failed:');
  for (const name of failures) console.log(`  ${name}`);
  console.log(`${passed} passed, ${failed} failed, ${skipped.length} skipped`);
}

process.exitCode = main(process.argv.slice(2));
