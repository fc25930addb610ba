// Builds what runs from dist/: apps, libs and bench by swc, without type checks. Does nothing when no source is newer
// than the last build. Plain JavaScript, so that it runs before anything is built.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const sources = ['apps', 'libs', 'bench', 'tools/tiny-image'];

/** Path, size and time of every source, as one hash: also a removed or an older file makes a difference. */
function fingerprint() {
  const hash = createHash('sha256');
  const walk = (folder) => {
    for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory()) walk(path);
      else {
        const { size, mtimeMs } = statSync(join(root, path));
        hash.update(`${path}\0${size}\0${mtimeMs}\n`);
      }
    }
  };
  for (const folder of presentSources()) walk(folder);
  hash.update(readFileSync(join(root, '.swcrc')));
  return hash.digest('hex');
}

function presentSources() {
  return sources.filter((folder) => existsSync(join(root, folder)));
}

/** Returns true when it built, false when dist/ was fresh. Throws when swc refuses a file. */
export function build({ force = false } = {}) {
  const stamp = join(root, 'dist', '.built-from');
  const now = fingerprint();
  if (!force && existsSync(stamp) && readFileSync(stamp, 'utf8') === now) return false;
  // Made aside and swapped in, since another `npm start` may run from dist/ at this moment.
  const aside = `dist.${process.pid}.new`;
  // --copy-files: what is read at run time beside its code, such as the protocol's descriptors.
  const swc = spawnSync(
    process.execPath,
    [
      join(root, 'node_modules/@swc/cli/bin/swc.js'),
      ...presentSources(),
      '--out-dir',
      aside,
      '--copy-files',
      '--quiet',
    ],
    { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] },
  );
  if (swc.error || swc.status !== 0) rmSync(join(root, aside), { recursive: true, force: true });
  if (swc.error) throw swc.error;
  if (swc.status !== 0) throw new Error(`swc ended with status ${swc.status ?? swc.signal}`);
  writeFileSync(join(root, aside, '.built-from'), now);
  const old = `dist.${process.pid}.old`;
  if (existsSync(join(root, 'dist'))) renameSync(join(root, 'dist'), join(root, old));
  renameSync(join(root, aside), join(root, 'dist'));
  rmSync(join(root, old), { recursive: true, force: true });
  return true;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const started = Date.now();
  try {
    const built = build({ force: process.argv.includes('--force') });
    if (!process.argv.includes('--quiet'))
      console.log(built ? `built in ${((Date.now() - started) / 1000).toFixed(1)} s` : 'dist/ is fresh');
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
