/** Small files that a router's programs read: replaced as a whole, and only when they differ. */
import { chmod, mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';

export async function readOr(path: string, fallback: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return fallback;
    throw error;
  }
}

/** Replaces a file as a whole if its content differs. */
export async function replaceFile(path: string, content: string): Promise<void> {
  if ((await readOr(path, '\0')) === content) return;
  await writeFile(`${path}.new`, content);
  await chmod(`${path}.new`, 0o644);
  await rename(`${path}.new`, path);
}

/** Makes a network's directory and the one of all networks; modes whatever this process's umask is. */
export async function letThrough(dir: string): Promise<void> {
  await mkdir(dir, { recursive: true });
  await chmod(dirname(dir), 0o711);
  await chmod(dir, 0o755);
}

/** Whom a program can become and still read its files: `user` if every directory above lets others through. */
export async function unprivilegedUser(dir: string, user: string): Promise<string> {
  for (let at = dir; ; at = dirname(at)) {
    if (((await stat(at)).mode & 0o001) === 0) return 'root';
    if (at === dirname(at)) return user;
  }
}
