/**
 * Picks the ports of all servers before the first of them starts, and remembers them: what a user wrote down after one
 * start (the API's URL, an issuer) holds after the next. A chosen port is claimed for as long as the stack runs, since
 * seconds pass before its server listens, and another start may choose meanwhile.
 */
import { createServer, type Server } from 'node:net';
import { readJson, writeWhole } from './data-folder.js';
import { UsageError } from './options.js';

export interface Ports {
  api: number;
  apiMonitoring: number;
  grpc: number;
  grpcMonitoring: number;
  /** Where machines enroll as nodes. */
  enrollment: number;
  issuer: number;
  database: number;
}

export interface ChosenPorts {
  ports: Ports;
  /** Gives the claims back. */
  release(): void;
}

/** Undefined: any. Only what users type has a usual port. */
const usual: Partial<Ports> = { api: 8080, grpc: 7443, enrollment: 7444, issuer: 8180 };
const names: (keyof Ports)[] = ['api', 'apiMonitoring', 'grpc', 'grpcMonitoring', 'enrollment', 'issuer', 'database'];
const serving = '127.0.0.1';
/** Whoever listens on a port here has claimed it there. The kernel gives a claim back however its holder ends. */
const claiming = '127.0.99.1';

/** `asked` are those of the command line. Throws UsageError where one of them is taken. */
export async function choosePorts(asked: Partial<Ports>, file: string): Promise<ChosenPorts> {
  const remembered = readJson<Partial<Ports>>(file) ?? {};
  const claims: Server[] = [];
  const release = () => {
    for (const claim of claims) claim.close();
  };
  const ports: Partial<Ports> = {};
  try {
    for (const name of names) {
      const wish = asked[name];
      const candidates = wish ? [wish] : [remembered[name], wish === 0 ? undefined : usual[name]];
      const claimed = (await firstFree(candidates)) ?? (wish ? undefined : await anyFree());
      if (!claimed) throw new UsageError(`port ${wish} (${name}) is taken`);
      claims.push(claimed.claim);
      ports[name] = claimed.port;
    }
    writeWhole(file, ports);
  } catch (error) {
    release();
    throw error;
  }
  return { ports: ports as Ports, release };
}

interface Claimed {
  port: number;
  claim: Server;
}

async function firstFree(candidates: (number | undefined)[]): Promise<Claimed | undefined> {
  for (const port of candidates) {
    const claimed = port && (await claimPort(port));
    if (claimed) return claimed;
  }
  return undefined;
}

async function anyFree(): Promise<Claimed> {
  for (;;) {
    const free = await listen(serving, 0);
    const claimed = free && (await claimPort(await closed(free)));
    if (claimed) return claimed;
  }
}

/** Claimed first, then looked at: of two that want a port only one gets so far. */
async function claimPort(port: number): Promise<Claimed | undefined> {
  const claim = await listen(claiming, port);
  if (!claim) return undefined;
  const free = await listen(serving, port);
  if (!free) {
    claim.close();
    return undefined;
  }
  await closed(free);
  claim.unref();
  return { port, claim };
}

/** Undefined where the port is taken, or this user may not have it. */
function listen(host: string, port: number): Promise<Server | undefined> {
  return new Promise((resolve, reject) => {
    // Nobody is answered here.
    const server = createServer((socket) => socket.destroy());
    server.once('error', (error: NodeJS.ErrnoException) => {
      if (error.code === 'EADDRINUSE' || error.code === 'EACCES') resolve(undefined);
      else reject(error);
    });
    server.listen(port, host, () => resolve(server));
  });
}

/** The port it had. */
function closed(server: Server): Promise<number> {
  const address = server.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  return new Promise((resolve) => server.close(() => resolve(port)));
}
