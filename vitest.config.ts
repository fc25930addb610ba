import { defineConfig } from 'vitest/config';

// Unit and database tests run from source (condition `source` of the package's own imports); the end-to-end
// suites under test/ start the built processes in dist/, as an operator would.
const common = {
  ssr: { resolve: { conditions: ['source', 'module', 'node', 'development|production'] } },
};

export default defineConfig({
  ...common,
  test: {
    globalSetup: ['tools/vitest-global-setup.ts', 'test/harness/global-setup.ts'],
    isolate: false,
    pool: 'threads',
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 120_000,
    include: ['apps/**/*.spec.ts', 'libs/**/*.spec.ts', 'test/**/*.spec.ts', 'tools/**/*.spec.ts'],
  },
});
