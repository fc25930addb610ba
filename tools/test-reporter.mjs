// A vitest reporter that writes what tools/test.mjs counts: passed and failed tests, and each skipped one with its reason.
// Vitest's own JSON leaves reasons out. The file is named by RHYZOME_TEST_RESULT.
import { writeFileSync } from 'node:fs';

// biome-ignore lint/style/noDefaultExport: vitest loads a reporter by its default export.
export default class CountingReporter {
  onTestRunEnd(modules, unhandledErrors) {
    const result = { failures: [], files: {} };
    for (const module of modules) result.files[module.relativeModuleId] = countFile(module);
    const idOf = new Map(modules.map(({ moduleId, relativeModuleId }) => [moduleId, relativeModuleId]));
    for (const error of unhandledErrors) {
      // A plain object, as it came from the process of a file; what names none, no file can be blamed for.
      const file = result.files[idOf.get(error.VITEST_TEST_PATH)];
      const said = `${error.type ?? 'Unhandled Error'}: ${error.message}`;
      (file ?? result).failures.push(file ? `${idOf.get(error.VITEST_TEST_PATH)}: ${said}` : said);
    }
    if (process.env.RHYZOME_TEST_RESULT) writeFileSync(process.env.RHYZOME_TEST_RESULT, JSON.stringify(result));
  }
}

function countFile(module) {
  const file = { passed: 0, skipped: [], failures: [] };
  // A file that cannot be loaded has no tests, and yet it failed; so has one whose suite-wide hook threw.
  const errors = [...module.errors(), ...[...module.children.allSuites()].flatMap((suite) => suite.errors())];
  for (const error of errors) file.failures.push(`${module.relativeModuleId}: ${error.message}`);
  for (const test of module.children.allTests()) {
    const { state, note } = test.result();
    const name = `${module.relativeModuleId} > ${test.fullName}`;
    if (state === 'passed') file.passed += 1;
    else if (state === 'skipped') file.skipped.push({ name, reason: note ?? '' });
    else file.failures.push(name);
  }
  return file;
}
