/**
 * Makes a new kind from templates/kind: written, formatted and generated in a copy of the checkout, and brought over only
 * when all of it went well. Whatever fails on the way leaves the checkout as it was; a death while files are brought over
 * is mended by `npm run generate`, since what is generated comes last.
 */
import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { CliError, exitStatus } from './exit-status.js';
import type { KindNames } from './kind-names.js';

const EXAMPLE = 'sample-thing';
/** What belongs to the machine and not to the source. */
const notSource = /^(node_modules|dist|dist\..*|\.git|\.rhyzome)$/;
/** What the generators own, as tools/generate.mjs has it. */
const generated = ['libs/kinds/index.ts', 'sql/schema.sql', 'libs/db/generated', 'openapi.json', 'docs/reference'];
const GENERATE_MS = 600_000;

/** Makes the kind and returns the files that are new or changed. Throws CliError and leaves nothing. */
export function generateKind(checkout: string, names: KindNames): string[] {
  const cache = join(checkout, '.rhyzome', 'cache');
  mkdirSync(cache, { recursive: true });
  const copy = mkdtempSync(join(cache, 'new-kind-'));
  try {
    copySource(checkout, copy);
    const folder = `libs/kinds/${names.kebab}`;
    const migration = `sql/migrations/${nextNumber(checkout)}_${names.snake}.sql`;
    writeTemplates(copy, folder, migration, names);
    run(copy, join(checkout, 'node_modules/.bin/biome'), ['check', '--write', '--vcs-enabled=false', folder]);
    run(copy, process.execPath, ['tools/generate.mjs', 'kinds', 'schema', 'reference']);
    return bringOver(checkout, copy, folder, migration);
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

function copySource(checkout: string, copy: string): void {
  for (const entry of readdirSync(checkout)) {
    if (!notSource.test(entry)) cpSync(join(checkout, entry), join(copy, entry), { recursive: true });
  }
  symlinkSync(join(checkout, 'node_modules'), join(copy, 'node_modules'));
}

function nextNumber(checkout: string): string {
  const numbers = readdirSync(join(checkout, 'sql/migrations')).map((file) => Number.parseInt(file, 10));
  const next = Math.max(0, ...numbers.filter(Number.isInteger)) + 1;
  return String(next).padStart(4, '0');
}

function writeTemplates(copy: string, folder: string, migration: string, names: KindNames): void {
  const templates = join(copy, 'templates/kind');
  mkdirSync(join(copy, folder));
  for (const file of readdirSync(templates)) {
    const target = file === 'migration.sql' ? migration : join(folder, file.replace(EXAMPLE, names.kebab));
    writeFileSync(join(copy, target), renamed(readFileSync(join(templates, file), 'utf8'), names));
  }
}

/** The example's name in all its forms, the longer ones first. */
function renamed(text: string, { kebab, camel, pascal, snake, plural, camelPlural }: KindNames): string {
  const words = kebab.replaceAll('-', ' ');
  return text
    .replaceAll('sample-things', plural)
    .replaceAll('sampleThings', camelPlural)
    .replaceAll('sample-thing', kebab)
    .replaceAll('sampleThing', camel)
    .replaceAll('SampleThing', pascal)
    .replaceAll('sample_thing', snake)
    .replaceAll('Sample thing', words[0]!.toUpperCase() + words.slice(1))
    .replaceAll('sample thing', words);
}

function run(cwd: string, program: string, args: string[]): void {
  const { status, error, stdout, stderr } = spawnSync(program, args, {
    cwd,
    timeout: GENERATE_MS,
    encoding: 'utf8',
    maxBuffer: 64 * 2 ** 20,
  });
  if (!error && status === 0) return;
  const said = `${stdout ?? ''}${stderr ?? ''}`.trim().slice(-4_000);
  throw new CliError(
    exitStatus.refused,
    'generate_failed',
    `Nothing was written: ${args.slice(0, 2).join(' ')} failed (${error?.message ?? `status ${status}`}).\n${said}`,
  );
}

/** Brings the new files over; what was replaced is put back if one of them cannot be. */
function bringOver(checkout: string, copy: string, folder: string, migration: string): string[] {
  const undo: (() => void)[] = [];
  const changed: string[] = [];
  try {
    const number = migration.slice('sql/migrations/'.length).split('_')[0]!;
    if (readdirSync(join(checkout, 'sql/migrations')).some((file) => file.startsWith(`${number}_`)))
      throw new CliError(exitStatus.refused, 'taken', `Somebody has taken the number ${number} just now; try again.`);
    linkSync(join(copy, migration), join(checkout, migration));
    undo.push(() => rmSync(join(checkout, migration)));
    renameSync(join(copy, folder), join(checkout, folder));
    undo.push(() => rmSync(join(checkout, folder), { recursive: true }));
    changed.push(...filesBelow(checkout, folder), migration);
    for (const file of generated.flatMap((path) => filesBelow(copy, path))) {
      const before = existsSync(join(checkout, file)) ? readFileSync(join(checkout, file)) : undefined;
      const now = readFileSync(join(copy, file));
      if (before?.equals(now)) continue;
      mkdirSync(dirname(join(checkout, file)), { recursive: true });
      undo.push(() => (before ? writeFileSync(join(checkout, file), before) : rmSync(join(checkout, file))));
      renameSync(join(copy, file), join(checkout, file));
      changed.push(file);
    }
    return changed;
  } catch (error) {
    for (const step of undo.reverse()) step();
    throw error;
  }
}

/** Files at or below a path, relative to the folder. */
function filesBelow(folder: string, path: string): string[] {
  const whole = join(folder, path);
  if (!existsSync(whole)) return [];
  if (!statSync(whole).isDirectory()) return [path];
  return readdirSync(whole)
    .sort()
    .flatMap((name) => filesBelow(folder, join(path, name)));
}
