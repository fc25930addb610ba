/** Names and paths of an instance on this machine, and the record of whose it is. */
import { chmod, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Ref } from '#libs/drivers/contract';

/** Name of an instance's domain in libvirt. */
export function domainName(installation: string, id: string): string {
  return `rz-${installation}-${id}`;
}

/** Id of the instance that a domain of this installation is; null: another's domain. */
export function instanceOf(installation: string, domain: string): string | null {
  const prefix = `rz-${installation}-`;
  const id = domain.slice(prefix.length);
  return domain.startsWith(prefix) && /^[0-9a-f-]{36}$/.test(id) ? id : null;
}

export interface Place {
  dir: string;
  disk: string;
  /** Definition that libvirt was last given. */
  definition: string;
  consoleLog: string;
  /** What was cut off the console log. */
  olderConsoleLog: string;
  /** Is there while a reboot is under way: then being off is nobody's wish, also after a crash of the agent. */
  rebooting: string;
}

/** Places under `<stateDir>/instance/<id>/`. */
export interface Places {
  of(id: string): Place;
  /** Notes whose it is, before anything is made. */
  claim(ref: Ref): Promise<void>;
  /** Removes the directory, the note last. */
  release(id: string): Promise<void>;
  ref(id: string): Promise<Ref | null>;
  ids(): Promise<string[]>;
}

export function openPlaces(stateDir: string): Places {
  const root = join(stateDir, 'instance');
  const dir = (id: string) => join(root, id);
  return {
    of: (id) => ({
      dir: dir(id),
      disk: join(dir(id), 'disk.qcow2'),
      definition: join(dir(id), 'domain.xml'),
      consoleLog: join(dir(id), 'console.log'),
      olderConsoleLog: join(dir(id), 'console.log.1'),
      rebooting: join(dir(id), 'rebooting'),
    }),
    async claim(ref) {
      await mkdir(dir(ref.id), { recursive: true });
      // The hypervisor's own user must get through to the disk, and nobody may list, whatever the umask is.
      for (const each of [root, dir(ref.id)]) await chmod(each, 0o711);
      const path = join(dir(ref.id), 'ref.json');
      await writeFile(`${path}.new`, JSON.stringify(ref), { flush: true });
      await rename(`${path}.new`, path);
    },
    async release(id) {
      const names = await readdirOr(dir(id));
      for (const name of names)
        if (name !== 'ref.json') await rm(join(dir(id), name), { recursive: true, force: true });
      await rm(dir(id), { recursive: true, force: true });
    },
    async ref(id) {
      try {
        return JSON.parse(await readFile(join(dir(id), 'ref.json'), 'utf8')) as Ref;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
        throw error;
      }
    },
    ids: () => readdirOr(root),
  };
}

async function readdirOr(dir: string): Promise<string[]> {
  try {
    return await readdir(dir);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}
