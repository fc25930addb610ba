/** What lies beside the program: its version and its migrations. The same from source and from dist/. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** The folder that holds package.json and sql/. */
export function installationRoot(start = import.meta.dirname): string {
  for (let folder = start; ; folder = dirname(folder)) {
    if (existsSync(join(folder, 'sql', 'migrations'))) return folder;
    if (folder === dirname(folder)) throw new Error(`no sql/migrations above ${start}: the installation is not whole`);
  }
}

export function migrationsFolder(): string {
  return join(installationRoot(), 'sql', 'migrations');
}

export function programVersion(): string {
  const manifest = JSON.parse(readFileSync(join(installationRoot(), 'package.json'), 'utf8')) as { version: string };
  return manifest.version;
}
