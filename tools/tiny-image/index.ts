/**
 * Makes the tiny test image where it can be made (build.sh) and keeps it in a cache directory. Knows nothing of
 * images as resources: whoever imports it into an installation does so with the path it gets here.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile } from 'node:fs/promises';
import { delimiter, join, resolve } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** What build.sh calls, with the Debian package that has it. */
const programs: Record<string, string> = {
  busybox: 'busybox-static',
  syslinux: 'syslinux',
  mcopy: 'mtools',
  'mkfs.vfat': 'dosfstools',
  cpio: 'cpio',
  'qemu-img': 'qemu-utils',
  'dpkg-deb': 'dpkg',
  'apt-get': 'apt',
};

const searchPath = `${process.env.PATH ?? ''}${delimiter}/usr/sbin${delimiter}/sbin`;
const buildLimitMs = 180_000;

export type Ability = { ok: true } | { ok: false; reason: string };

/** The tools' own directory in the checkout that `from` lies in: dist/ holds no scripts. */
function sourceDir(from = import.meta.dirname): string {
  for (let dir = from; dir !== '/'; dir = resolve(dir, '..')) {
    const candidate = join(dir, 'tools/tiny-image');
    if (existsSync(join(candidate, 'build.sh'))) return candidate;
  }
  throw new Error('tools/tiny-image/build.sh is missing from this checkout');
}

/** Whether the tiny image can be built here; the reason says what to install. */
export function canBuildTiny(): Ability {
  const missing = Object.entries(programs).filter(
    ([name]) => !searchPath.split(delimiter).some((dir) => existsSync(join(dir, name))),
  );
  if (missing.length === 0) return { ok: true };
  const names = missing.map(([name, debian]) => `${name} (package ${debian})`).join(', ');
  return { ok: false, reason: `missing: ${names}; tools/install-debian-packages.sh installs them` };
}

/**
 * Path of the tiny image in `cacheDir`, built first (some seconds, and the download of a kernel package once) when it
 * is missing or its recipe has changed. Two callers at once build it once. Throws when it cannot be built.
 */
export async function ensureTinyImage(cacheDir: string): Promise<string> {
  await mkdir(cacheDir, { recursive: true });
  const source = sourceDir();
  const recipe = await recipeHash(source);
  const image = join(resolve(cacheDir), `tiny-${recipe}.qcow2`);
  if (existsSync(image)) return image;
  const build = join(source, 'build.sh');
  const kernels = join(resolve(cacheDir), 'kernel');
  await run(
    'flock',
    ['-w', String(buildLimitMs / 1000), join(cacheDir, 'tiny.lock'), 'bash', '-c', buildOnce, build, image, kernels],
    { timeout: 2 * buildLimitMs, env: { ...process.env, PATH: searchPath } },
  );
  return image;
}

/** $0 is build.sh; whoever waited for the lock finds the image made. */
const buildOnce = 'test -e "$1" || exec "$0" "$1" "$2"';

const recipe = [
  ...['build.sh', 'init', 'udhcpc.script', 'console', 'seed', 'address6'],
  ...['index.cgi', 'reach.cgi', 'syslinux.cfg'],
];

async function recipeHash(source: string): Promise<string> {
  const hash = createHash('sha256');
  for (const file of recipe) {
    hash.update(await readFile(join(source, file)));
  }
  return hash.digest('hex').slice(0, 12);
}
