/**
 * Picks the ports of all servers before the first of them starts, and remembers them: what a user wrote down after one
 * start (the API's URL, an issuer) holds after the next.
 */
import { createServer } from 'node:net';
import { readJson, writeWhole } from './data-folder.js';
import { UsageError } from './options.js';

export interface Ports {
  api: number;
  apiMonitoring: number;
  grpc: number;
  grpcMonitoring: number;
  issuer: number;
  database: number;
}

/** Undefined: any. Only what users type has a usual port. */
const usual: Partial<Ports> = { api: 8080, grpc: 7443, issuer: 8180 };
const names: (keyof Ports)[] = ['api', 'apiMonitoring', 'grpc', 'grpcMonitoring', 'issuer', 'database'];

/** `asked` are those of the command line. Throws UsageError where one of them is taken. */
export async function choosePorts(asked: Partial<Ports>, file: string): Promise<Ports> {
  const remembered = readJson<Partial<Ports>>(file) ?? {};
  const chosen: Partial<Ports> = {};
  for (const name of names) {
    const wish = asked[name];
    if (wish) {
      if (!(await isFree(wish))) throw new UsageError(`port ${wish} (${name}) is taken`);
      chosen[name] = wish;
      continue;
    }
    const candidates = [remembered[name], wish === 0 ? undefined : usual[name]];
    chosen[name] = (await firstFree(candidates, Object.values(chosen))) ?? (await anyFree(Object.values(chosen)));
  }
  writeWhole(file, chosen);
  return chosen as Ports;
}

async function firstFree(candidates: (number | undefined)[], taken: number[]): Promise<number | undefined> {
  for (const port of candidates) if (port && !taken.includes(port) && (await isFree(port))) return port;
  return undefined;
}

async function anyFree(taken: number[]): Promise<number> {
  for (;;) {
    const port = await listenOnce(0);
    if (port && !taken.includes(port)) return port;
  }
}

async function isFree(port: number): Promise<boolean> {
  return (await listenOnce(port)) === port;
}

/** The port that was listened on for a moment; undefined when it is taken. */
function listenOnce(port: number): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE' || error.code === 'EACCES') resolve(undefined);
      else reject(error);
    });
    server.listen(port, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => resolve(typeof address === 'object' ? address?.port : undefined));
    });
  });
}
