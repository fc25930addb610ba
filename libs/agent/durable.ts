/** Small JSON files that survive a crash at any instruction: written aside, synced, renamed, the directory synced. */
import { open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Resolves when a power cut could no longer undo it. One writer for each file. */
export async function writeJsonDurably(file: string, value: unknown): Promise<void> {
  const aside = `${file}.new`;
  const handle = await open(aside, 'w', 0o600);
  try {
    await handle.writeFile(JSON.stringify(value));
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(aside, file);
  const directory = await open(dirname(file), 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** Undefined when there is no such file; throws on anything else, because guessing would lose what was known. */
export async function readJson<T>(file: string): Promise<T | undefined> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  return JSON.parse(text) as T;
}
