/**
 * One agent for each state directory. The lock is a name in Linux' abstract socket namespace (unix(7)): the kernel drops
 * it with the process, however that ends, so it can never be left behind.
 */
import { createHash } from 'node:crypto';
import { realpath } from 'node:fs/promises';
import { createServer } from 'node:net';

/** Returns its release. Rejects when another agent of this network namespace holds it. */
export async function lockStateDir(stateDir: string): Promise<() => Promise<void>> {
  const path = await realpath(stateDir);
  const name = `\0rhyzome-agent-${createHash('sha256').update(path).digest('hex').slice(0, 32)}`;
  const server = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const taken = error.code === 'EADDRINUSE';
      reject(taken ? new Error(`Another agent runs with the state directory ${path}.`, { cause: error }) : error);
    });
    server.listen(name, resolve);
  });
  server.unref();
  return () => new Promise((resolve) => server.close(() => resolve()));
}
