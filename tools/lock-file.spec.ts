/**
 * The lock file as `npm ci` wants it. npm leaves out of it what it could not find when it was written, for example the
 * packages of other platforms from a registry that does not have them; `npm ci` then refuses the whole file.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

interface LockedPackage {
  version?: string;
  resolved?: string;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
}

const root = join(import.meta.dirname, '..');
const packages: Record<string, LockedPackage> = JSON.parse(
  readFileSync(join(root, 'package-lock.json'), 'utf8'),
).packages;

/** Whether a package at this path finds the other one, looking upwards as Node does. */
function finds(path: string, name: string): boolean {
  for (let at = path; ; at = at.slice(0, Math.max(at.lastIndexOf('/node_modules/'), 0))) {
    if (packages[`${at ? `${at}/` : ''}node_modules/${name}`]) return true;
    if (at === '') return false;
  }
}

it('has an entry for every dependency, those for other platforms too', () => {
  const missing = Object.entries(packages).flatMap(([path, { dependencies, devDependencies, optionalDependencies }]) =>
    Object.keys({ ...dependencies, ...devDependencies, ...optionalDependencies })
      .filter((name) => !finds(path, name))
      .map((name) => `${path || 'package.json'} → ${name}`),
  );
  expect(missing).toEqual([]);
});

it('says what package.json says, and names no registry', () => {
  const { dependencies, devDependencies, optionalDependencies } = JSON.parse(
    readFileSync(join(root, 'package.json'), 'utf8'),
  ) as LockedPackage;
  expect(packages['']?.dependencies).toEqual(dependencies);
  expect(packages['']?.devDependencies).toEqual(devDependencies);
  expect(packages['']?.optionalDependencies).toEqual(optionalDependencies);
  expect(Object.values(packages).filter(({ resolved }) => resolved)).toEqual([]);
});
