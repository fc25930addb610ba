/** One directory for each resource of a kind, `<stateDir>/<kind>/<id>/`, with the record of whose it is. */
import { chmod, mkdir, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Ref } from '#libs/drivers/contract';

export interface Folders {
  of(id: string): string;
  /** Notes whose it is, before anything is made. */
  claim(ref: Ref): Promise<void>;
  /** Removes the directory, the note last. */
  release(id: string): Promise<void>;
  ref(id: string): Promise<Ref | null>;
  ids(): Promise<string[]>;
}

export function openFolders(stateDir: string, kind: string): Folders {
  const root = join(stateDir, kind);
  const of = (id: string) => join(root, id);
  return {
    of,
    async claim(ref) {
      await mkdir(of(ref.id), { recursive: true });
      // The hypervisor's own user must get through to the disk, and nobody may list, whatever the umask is.
      for (const each of [root, of(ref.id)]) await chmod(each, 0o711);
      // Written once: on a full disk, what is there must go on to work.
      if ((await readJson(join(of(ref.id), 'ref.json'))) === null) await writeJson(join(of(ref.id), 'ref.json'), ref);
    },
    async release(id) {
      const names = await readdirOr(of(id));
      for (const name of names) if (name !== 'ref.json') await rm(join(of(id), name), { recursive: true, force: true });
      await rm(of(id), { recursive: true, force: true });
    },
    ref: (id) => readJson<Ref>(join(of(id), 'ref.json')),
    ids: () => readdirOr(root),
  };
}

/** Written aside, then renamed; on the disk when it resolves. */
export async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFile(`${path}.new`, JSON.stringify(value), { flush: true });
  await rename(`${path}.new`, path);
  await sync(dirname(path));
}

/** Null: there is no such file. */
export async function readJson<T>(path: string): Promise<T | null> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** Brings a file or a directory to the disk, whoever wrote it. */
export async function sync(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

async function readdirOr(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
