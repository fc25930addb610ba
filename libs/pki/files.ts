/**
 * Reading and writing PEM files: certificates are written for all to read, keys for the owner alone, both aside and then
 * renamed, so that a reader never sees half a file and a crash leaves the old one.
 */
import { randomUUID } from 'node:crypto';
import { open, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { PkiError } from './errors.js';

/** Larger files are not PEM files of ours (bytes). */
const maxPemBytes = 1024 * 1024;

export const keyMode = 0o600;
export const certificateMode = 0o644;

/** Writes aside, syncs, renames. The undo of a failed try is taking the aside file away. */
export async function writeFileAtomically(file: string, content: string, mode: number): Promise<void> {
  const aside = `${file}.${randomUUID()}.new`;
  try {
    const handle = await open(aside, 'wx', mode);
    try {
      await handle.chmod(mode);
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(aside, file);
    await syncDirectory(dirname(file));
  } catch (error) {
    await rm(aside, { force: true });
    throw error;
  }
}

async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Throws PkiError `file_missing` or `file_unreadable`. `what` says in messages what the file is for. */
export async function readPem(file: string, what: string): Promise<Buffer> {
  const status = await statPem(file, what);
  if (!status.isFile() || status.size > maxPemBytes) {
    throw new PkiError('file_unreadable', `${file} (${what}) is not a file of at most ${maxPemBytes} bytes.`, file);
  }
  try {
    return await readFile(file);
  } catch (cause) {
    throw unreadable(file, what, cause);
  }
}

/** Refuses a key that anybody but its owner may read or write. Throws PkiError `key_exposed`. */
export async function assertPrivate(file: string): Promise<void> {
  const { mode } = await statPem(file, 'the private key');
  if ((mode & 0o077) !== 0) {
    throw new PkiError(
      'key_exposed',
      `${file} (the private key) can be read or written by group or others (mode ${(mode & 0o777).toString(8).padStart(4, '0')}). Run: chmod 600 ${file} – and issue it anew if somebody may have read it.`,
      file,
    );
  }
}

async function statPem(file: string, what: string) {
  try {
    return await stat(file);
  } catch (cause) {
    throw unreadable(file, what, cause);
  }
}

function unreadable(file: string, what: string, cause: unknown): PkiError {
  const code = (cause as NodeJS.ErrnoException).code ?? 'unknown error';
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    return new PkiError('file_missing', `${file} (${what}) does not exist. Issue it, or correct the path.`, file, {
      cause,
    });
  }
  return new PkiError('file_unreadable', `${file} (${what}) cannot be read (${code}).`, file, { cause });
}

/** Throws PkiError where something is there that is no such file. */
export async function exists(file: string): Promise<boolean> {
  try {
    await readPem(file, 'a file');
    return true;
  } catch (error) {
    if (error instanceof PkiError && error.code === 'file_missing') return false;
    throw error;
  }
}
