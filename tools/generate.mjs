// Makes the files that are generated and committed, or with --check proves that they are fresh: the generator then writes
// into a folder of its own, and what it made must be what is committed, file for file. Names on the command line pick some.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { projectEnvironment, root } from './bootstrap.mjs';

const script = (name, out) => [process.execPath, join(root, 'tools/generators', name), out];

const build = [process.execPath, join(root, 'tools/build.mjs'), '--quiet'];

/**
 * Each generator: what it owns (files, or folders with all in them), and the commands that write the same paths below
 * the folder they are given.
 * @type {{ name: string, owns: string[], commands: (out: string) => string[][] }[]}
 */
export const generators = [
  {
    name: 'protos',
    owns: ['libs/rpc/generated'],
    commands: (out) => [
      ['buf', 'generate', 'protos', '--output', out],
      // Descriptors for gRPC reflection.
      ['buf', 'build', 'protos', '--output', join(out, 'libs/rpc/generated/rhyzome.binpb')],
    ],
  },
  {
    name: 'kinds',
    owns: ['libs/kinds/index.ts'],
    commands: (out) => [script('kinds.mjs', out)],
  },
  {
    name: 'schema',
    owns: ['sql/schema.sql', 'libs/db/generated'],
    commands: (out) => [build, script('schema.mjs', out)],
  },
  {
    name: 'reference',
    owns: ['openapi.json', 'docs/reference'],
    commands: (out) => [build, script('reference.mjs', out)],
  },
];

/** Runs one generator into a folder of its own and returns that folder. Throws when it fails. */
function generate({ name, commands }) {
  mkdirSync(join(root, '.rhyzome/cache'), { recursive: true });
  const out = mkdtempSync(join(root, '.rhyzome/cache/generate-'));
  for (const [program, ...args] of commands(out)) {
    const { status, error } = spawnSync(program, args, {
      cwd: root,
      env: projectEnvironment(),
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    if (!error && status === 0) continue;
    rmSync(out, { recursive: true });
    throw new Error(`generator ${name} failed (${error?.message ?? `status ${status}`})`);
  }
  return out;
}

/** Files at or below a path, relative to the folder. */
function filesBelow(folder, path) {
  const whole = join(folder, path);
  if (!existsSync(whole)) return [];
  if (!statSync(whole).isDirectory()) return [path];
  return readdirSync(whole, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .sort();
}

/** What is stale, missing or left over, in words. */
function differences({ owns }, out) {
  return owns.flatMap((path) => {
    const committed = filesBelow(root, path);
    const made = filesBelow(out, path);
    const stale = made.filter(
      (file) => committed.includes(file) && !readFileSync(join(root, file)).equals(readFileSync(join(out, file))),
    );
    return [
      ...stale.map((file) => `${file} is stale`),
      ...made.filter((file) => !committed.includes(file)).map((file) => `${file} is missing`),
      ...committed.filter((file) => !made.includes(file)).map((file) => `${file} is left over`),
    ];
  });
}

/** The new files in the place of the old ones, which go where the generator no longer makes them. */
function install({ owns }, out) {
  for (const path of owns) {
    rmSync(join(root, path), { recursive: true, force: true });
    if (!existsSync(join(out, path))) continue;
    mkdirSync(dirname(join(root, path)), { recursive: true });
    cpSync(join(out, path), join(root, path), { recursive: true });
  }
}

function main(args) {
  const check = args.includes('--check');
  const wanted = args.filter((arg) => arg !== '--check');
  const unknown = wanted.filter((name) => !generators.some((g) => g.name === name));
  if (unknown.length > 0) {
    console.error(`no generator ${unknown.join(', ')}; there are ${generators.map((g) => g.name).join(', ')}`);
    return 64;
  }
  let stale = 0;
  for (const generator of generators.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
    const out = generate(generator);
    try {
      const found = differences(generator, out);
      stale += found.length;
      if (found.length === 0) console.log(`${generator.name}: fresh`);
      for (const line of found) console.log(`${generator.name}: ${line}`);
      if (!check && found.length > 0) install(generator, out);
    } finally {
      rmSync(out, { recursive: true });
    }
  }
  if (check && stale > 0) console.error('run `npm run generate` and commit what it makes');
  return check && stale > 0 ? 1 : 0;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) process.exitCode = main(process.argv.slice(2));
