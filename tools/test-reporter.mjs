// A vitest reporter that writes what tools/test.mjs counts: passed and failed tests, and each skipped one with its reason.
// Vitest's own JSON leaves reasons out. The file is named by RHYZOME_TEST_RESULT.
import { writeFileSync } from 'node:fs';

// biome-ignore lint/style/noDefaultExport: vitest loads a reporter by its default export.
export default class CountingReporter {
  onTestRunEnd(modules, unhandledErrors) {
    const result = { passed: 0, failed: unhandledErrors.length, skipped: [], failures: unhandledErrors.map(String) };
    for (const module of modules) {
      // A file that cannot be loaded has no tests, and yet it failed; so has one whose suite-wide hook threw.
      const errors = [...module.errors(), ...[...module.children.allSuites()].flatMap((suite) => suite.errors())];
      result.failed += errors.length;
      for (const error of errors) result.failures.push(`${module.relativeModuleId}: ${error.message}`);
      for (const test of module.children.allTests()) this.#count(result, module, test);
    }
    if (process.env.RHYZOME_TEST_RESULT) writeFileSync(process.env.RHYZOME_TEST_RESULT, JSON.stringify(result));
  }

  #count(result, module, test) {
    const { state, note } = test.result();
    const name = `${module.relativeModuleId} > ${test.fullName}`;
    if (state === 'passed') result.passed += 1;
    else if (state === 'skipped') result.skipped.push({ name, reason: note ?? '' });
    else {
      result.failed += 1;
      result.failures.push(name);
    }
  }
}
