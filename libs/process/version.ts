/** The version of this program, from package.json. */
import { readFileSync } from 'node:fs';

export function version(): string {
  // The folder differs between sources and dist/.
  for (const path of ['../../package.json', '../../../package.json']) {
    try {
      return (JSON.parse(readFileSync(new URL(path, import.meta.url), 'utf8')) as { version: string }).version;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  throw new Error('package.json is not where it was installed');
}
