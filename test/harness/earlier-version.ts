/** An earlier version of this project, built from its history into the cache, with the packages that are here. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync, symlinkSync } from 'node:fs';
import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '..', '..');

/** The last commit before nodes were fenced, jobs had alarms and agents took several controllers. */
export const EARLIER = '33fa39a9e591e305e87e7d6d1716d15f6dcd9612';

function git(...args: string[]): string {
  return execFileSync('git', ['-C', root, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
}

/** Why the earlier version cannot be had here; undefined: it can. */
export function whyNoEarlier(commit = EARLIER): string | undefined {
  try {
    git('cat-file', '-e', `${commit}^{commit}`);
  } catch {
    return `the commit ${commit.slice(0, 7)} is not in this clone (a shallow one?): git fetch --unshallow`;
  }
  // Of what is here, not of the last commit: both have to run with the packages that are installed.
  const here = git('hash-object', 'package-lock.json');
  if (git('rev-parse', `${commit}:package-lock.json`) === here) return undefined;
  return `the lock file has changed since ${commit.slice(0, 7)}, and its packages are not here`;
}

/** The folder of its checkout, built. */
export function earlierVersion(commit = EARLIER): string {
  const folder = join(root, '.rhyzome', 'cache', 'earlier', commit);
  if (existsSync(join(folder, 'dist', '.built-from'))) return folder;
  const aside = `${folder}.${process.pid}`;
  rmSync(aside, { recursive: true, force: true });
  mkdirSync(aside, { recursive: true });
  const archive = join(aside, 'source.tar');
  git('archive', '--output', archive, commit);
  execFileSync('tar', ['-xf', archive, '-C', aside]);
  rmSync(archive);
  symlinkSync(join(root, 'node_modules'), join(aside, 'node_modules'));
  execFileSync(process.execPath, [join(aside, 'tools', 'build.mjs')], { cwd: aside, stdio: 'ignore' });
  // Another run may have been quicker.
  if (existsSync(folder)) rmSync(aside, { recursive: true });
  else renameSync(aside, folder);
  return folder;
}
