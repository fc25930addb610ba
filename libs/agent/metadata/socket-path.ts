/**
 * Where the metadata service listens: in the state directory, or, where that is too long for a unix socket (108 bytes
 * with the ending zero, unix(7)), in a private directory whose name follows from it.
 */
import { createHash } from 'node:crypto';
import { lstat, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const mostBytes = 107;

/** Makes the directory if need be. Throws where somebody else's is in its place. */
export async function metadataSocketPath(stateDir: string): Promise<string> {
  const path = join(stateDir, 'metadata.sock');
  if (Buffer.byteLength(path) <= mostBytes) return path;
  const name = createHash('sha256').update(stateDir).digest('hex').slice(0, 16);
  const dir = join(tmpdir(), `rhyzome-${name}`);
  await mkdir(dir, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error;
  });
  const found = await lstat(dir);
  const isOurs = found.isDirectory() && found.uid === process.getuid?.() && (found.mode & 0o077) === 0;
  if (!isOurs) throw new Error(`${dir} is not a private directory of this user; remove it.`);
  return join(dir, 'metadata.sock');
}
