/**
 * The socket file that a killed server leaves behind: bind(2) refuses its path for ever. Taken away only when nobody
 * listens on it; one that answers belongs to a server that runs.
 */
import { lstat, rm } from 'node:fs/promises';
import { connect } from 'node:net';

/** Removes a left-behind socket of a `unix:/path` address; anything else stays as it is, for bind to refuse. */
export async function removeStaleSocket(address: string): Promise<void> {
  if (!address.startsWith('unix:')) return;
  const path = address.slice('unix:'.length);
  const found = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  if (found?.isSocket() && !(await answers(path))) await rm(path, { force: true });
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(false);
      else reject(error);
    });
  });
}
