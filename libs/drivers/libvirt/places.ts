/** Names and paths of an instance on this machine. */
import { join } from 'node:path';
import { type Folders, openFolders } from './folders.js';

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
  /** Definition that libvirt was last given. */
  definition: string;
  /** Volume with what the guest is told of itself. */
  seed: string;
  consoleLog: string;
  /** What was cut off the console log. */
  olderConsoleLog: string;
  /** Is there while a reboot is under way: then being off is nobody's wish, also after a crash of the agent. */
  rebooting: string;
}

/** Places under `<stateDir>/instance/<id>/`. */
export interface Places extends Omit<Folders, 'of'> {
  of(id: string): Place;
}

export function openPlaces(stateDir: string): Places {
  const folders = openFolders(stateDir, 'instance');
  return {
    ...folders,
    of: (id) => {
      const dir = folders.of(id);
      return {
        dir,
        definition: join(dir, 'domain.xml'),
        seed: join(dir, 'seed.img'),
        consoleLog: join(dir, 'console.log'),
        olderConsoleLog: join(dir, 'console.log.1'),
        rebooting: join(dir, 'rebooting'),
      };
    },
  };
}
