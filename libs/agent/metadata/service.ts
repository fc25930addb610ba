/**
 * HTTP/1.1 towards guests, behind a unix socket. A network's router connects for a guest and says first, in one line, on
 * which network and with which address it came; that decides who the guest is, and nothing that the guest sends can.
 * Needs no controller to answer.
 */
import { chmod, rm } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createSocketServer, isIP, type Socket, type Server as SocketServer } from 'node:net';
import type { DriverLog } from '#libs/drivers/contract';
import { documentAt } from './documents.js';
import type { GuestMetrics } from './guest-metrics.js';
import type { Guest, GuestDirectory } from './guests.js';

export interface MetadataOptions {
  /** Where it listens; at most 107 bytes (unix(7)). */
  path: string;
  guests: GuestDirectory;
  metrics: GuestMetrics;
  /** The platform's CA as PEM. */
  ca: () => string;
  log: DriverLog;
}

export interface MetadataService {
  close(): Promise<void>;
}

const mostConnections = 512;
const mostConnectionsOfGuest = 8;
const lineMs = 5_000;
const mostLineBytes = 128;
const mostBodyBytes = 64 * 1024;
/** What a guest reports in a shorter time than this is refused (ms). */
const reportEveryMs = 1_000;

/** Values of the Host header (RFC 9112 §3.2) that get an answer. */
const addresses: ReadonlySet<string> = new Set(['169.254.169.254', '169.254.169.254:80']);

/** Who is at the other end of a connection. */
const origins = new WeakMap<Socket, { networkId: string; ip: string }>();

/** Resolves when it listens. */
export async function startMetadataService(options: MetadataOptions): Promise<MetadataService> {
  const http = createHttp(options);
  const perGuest = new Map<string, number>();
  const sockets = new Set<Socket>();
  const server = createSocketServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {}); // The guest or its router went away; there is nobody to tell.
    socket.once('close', () => sockets.delete(socket));
    void introduce(socket, perGuest).then((isKnown) => isKnown && http.emit('connection', socket));
  });
  server.maxConnections = mostConnections;
  await rm(options.path, { force: true }); // The agent's lock says that nobody listens there any more.
  await listen(server, options.path);
  await chmod(options.path, 0o600);
  server.on('error', (error) => options.log.error({ err: error }, 'the metadata service failed'));
  return {
    close: async () => {
      for (const socket of sockets) socket.destroy();
      http.close();
      await new Promise<void>((resolve) => server.close(() => resolve()));
      await rm(options.path, { force: true });
    },
  };
}

function listen(server: SocketServer, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
}

/** Reads the first line; false: the connection was closed for what it said or did not say. */
async function introduce(socket: Socket, perGuest: Map<string, number>): Promise<boolean> {
  const line = await firstLine(socket);
  const [, networkId, ip] = /^([0-9a-f-]{36}) ([0-9a-fA-F:.]{2,45})$/.exec(line ?? '') ?? [];
  if (networkId === undefined || ip === undefined || isIP(ip) === 0 || socket.destroyed) {
    socket.destroy();
    return false;
  }
  const key = `${networkId} ${ip}`;
  const open = perGuest.get(key) ?? 0;
  if (open >= mostConnectionsOfGuest) {
    socket.end('HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n');
    socket.destroySoon();
    return false;
  }
  perGuest.set(key, open + 1);
  socket.once('close', () => {
    const left = (perGuest.get(key) ?? 1) - 1;
    if (left > 0) perGuest.set(key, left);
    else perGuest.delete(key);
  });
  origins.set(socket, { networkId, ip });
  return true;
}

/** Without its end; what follows stays in the socket. Undefined: none came in time or it is too long. */
function firstLine(socket: Socket): Promise<string | undefined> {
  return new Promise((resolve) => {
    let seen = Buffer.alloc(0);
    const end = (line: string | undefined) => {
      clearTimeout(timer);
      socket.removeListener('readable', read);
      socket.removeListener('close', gone);
      resolve(line);
    };
    const gone = () => end(undefined);
    const read = () => {
      for (let chunk = socket.read() as Buffer | null; chunk; chunk = socket.read() as Buffer | null) {
        seen = Buffer.concat([seen, chunk]);
        const at = seen.indexOf('\n');
        if (at > mostLineBytes || (at < 0 && seen.length > mostLineBytes)) return end(undefined);
        if (at < 0) continue;
        if (at + 1 < seen.length) socket.unshift(seen.subarray(at + 1));
        return end(seen.subarray(0, at).toString('latin1'));
      }
    };
    const timer = setTimeout(gone, lineMs);
    socket.on('readable', read);
    socket.once('close', gone);
  });
}

function createHttp({ guests, metrics, ca, log }: MetadataOptions): Server {
  const server = createServer(
    {
      maxHeaderSize: 8 * 1024,
      headersTimeout: 5_000,
      requestTimeout: 10_000,
      keepAliveTimeout: 5_000,
      connectionsCheckingInterval: 1_000,
    },
    (request, response) => {
      const origin = origins.get(request.socket);
      const guest = origin && guests.find(origin.networkId, origin.ip);
      if (!guest) return answer(response, 404, 'text/plain; charset=utf-8', 'This address is no guest’s.\n');
      serve(request, response, guest).catch((error: unknown) => {
        log.error({ err: error, ref: guest.ref }, 'a guest’s request failed');
        if (!response.headersSent) answer(response, 500, 'text/plain; charset=utf-8', 'Something went wrong.\n');
      });
    },
  );
  server.maxRequestsPerSocket = 100;

  const serve = async (request: IncomingMessage, response: ServerResponse, guest: Guest): Promise<void> => {
    const path = (request.url ?? '/').split('?')[0]!;
    const strange = strangeness(request);
    if (strange) return answer(response, 403, 'text/plain; charset=utf-8', `${strange}\n`);
    if (path === '/v1/metrics') return take(request, response, guest);
    const document = documentAt(path, guest, ca);
    if (!document) return answer(response, 404, 'text/plain; charset=utf-8', 'There is nothing at this path.\n');
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      return answer(response.setHeader('allow', 'GET, HEAD'), 405, 'text/plain; charset=utf-8', 'GET only.\n');
    }
    answer(response, 200, document.type, document.body);
  };

  const take = async (request: IncomingMessage, response: ServerResponse, guest: Guest): Promise<void> => {
    const plain = 'text/plain; charset=utf-8';
    if (request.method !== 'POST') {
      return answer(response.setHeader('allow', 'POST'), 405, plain, 'POST only.\n');
    }
    if (Date.now() - metrics.lastAt(guest.ref.id) < reportEveryMs) {
      return answer(response.setHeader('retry-after', '1'), 429, plain, 'Once a second is often enough.\n');
    }
    const body = await bodyOf(request);
    if (body === undefined) {
      return answer(response.setHeader('connection', 'close'), 413, plain, `At most ${mostBodyBytes} bytes.\n`);
    }
    const type = (request.headers['content-type'] ?? '').split(';')[0]!.trim().toLowerCase();
    const errors = metrics.take({ ...guest.ref }, type, body);
    if (errors.length === 0) return answer(response, 204, plain, '');
    answer(response, 422, 'application/json', `${JSON.stringify({ errors })}\n`);
  };

  return server;
}

/**
 * What says that somebody else than the guest itself asks: a proxy in it that forwards strangers' requests, or a page in
 * its browser whose name was made to mean this address (DNS rebinding). Neither may learn what is the guest's alone.
 */
function strangeness({ headers }: IncomingMessage): string | undefined {
  if (headers['x-forwarded-for'] !== undefined) return 'Forwarded requests get no answer here.';
  const isAddressed = headers.host === undefined || headers.host === '' || addresses.has(headers.host);
  return isAddressed ? undefined : 'Ask for 169.254.169.254 by its address.';
}

/** Undefined: it is too large. */
async function bodyOf(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > mostBodyBytes) return undefined;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}

function answer(response: ServerResponse, status: number, type: string, body: string): void {
  const bytes = Buffer.from(body);
  response.writeHead(status, {
    ...(bytes.length > 0 && { 'content-type': type }),
    ...(status !== 204 && { 'content-length': bytes.length }),
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
  });
  response.end(bytes);
}
