// Writes what all migrations together make: sql/schema.sql for readers and reviewers, and kysely's types. From a database
// of its own on the embedded server, migrated from nothing. Needs dist/ fresh.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { root } from '../bootstrap.mjs';
import { describeSchema } from './describe-schema.mjs';

const out = process.argv[2] ?? root;
const { createDatabase, startPostgres } = await import(join(root, 'dist/libs/devdb/index.js'));
const { migrate } = await import(join(root, 'dist/libs/db/index.js'));

mkdirSync(join(root, '.rhyzome/cache'), { recursive: true });
const dir = mkdtempSync(join(root, '.rhyzome/cache/schema-'));
const postgres = await startPostgres({ dir, fast: true });
try {
  await createDatabase(postgres.superuserUrl(), 'schema');
  const url = postgres.superuserUrl('schema');
  await migrate({ connectionString: url }, join(root, 'sql/migrations'));
  write('sql/schema.sql', await describeSchema(url));
  const types = join(out, 'libs/db/generated/schema.ts');
  mkdirSync(dirname(types), { recursive: true });
  // bigint as number: libs/db's parser refuses what does not fit.
  const mapping = JSON.stringify({ int8: 'number', inet: 'string' });
  const flags = ['--dialect', 'postgres', '--url', url, '--type-mapping', mapping, '--out-file', types];
  const codegen = join(root, 'node_modules/kysely-codegen/dist/cli/bin.js');
  const { status } = spawnSync(process.execPath, [codegen, '--log-level', 'error', ...flags], { stdio: 'inherit' });
  if (status !== 0) process.exitCode = 1;
} finally {
  await postgres.stop();
  rmSync(dir, { recursive: true, force: true });
}

function write(path, content) {
  mkdirSync(dirname(join(out, path)), { recursive: true });
  writeFileSync(join(out, path), content);
}
