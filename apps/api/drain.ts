/**
 * The end of the HTTP server without a failed request: it takes no new connections, answers what comes on those that stand
 * and asks their clients to close them, and only closes what nobody has used for a while. What goes on for long hears of it
 * by the signal. Knows nothing of what the requests are about.
 */
import { Server as HttpServer } from 'node:http';
import { Server } from 'node:net';
import { setImmediate as immediate, setTimeout as sleep } from 'node:timers/promises';
import type { FastifyInstance } from 'fastify';

/**
 * How long connections are kept for their clients' next requests, which are answered with `Connection: close` (ms). Closed at
 * once, they would meet requests that are on their way, and HTTP/1.1 lets no client know whether those were done.
 */
const KEEP_MS = 3_000;
const LOOK_MS = 25;

export class HttpDrain {
  private readonly draining = new AbortController();

  /** Before any other hook is added. */
  constructor(
    private readonly fastify: FastifyInstance,
    private readonly keepMs = KEEP_MS,
  ) {
    fastify.addHook('onRequest', async (_request, reply) => {
      if (this.signal.aborted) reply.header('connection', 'close');
    });
  }

  /** Aborts when the end begins. */
  get signal(): AbortSignal {
    return this.draining.signal;
  }

  /** Resolves when nobody is connected any more, or the time for that is up. Then the server may be closed. */
  async run(): Promise<void> {
    const server = this.fastify.server as HttpServer;
    this.draining.abort();
    const end = Date.now() + this.keepMs;
    await acceptWaiting(server, end);
    // Not that of http, which cuts idle connections before their clients have heard of anything.
    Server.prototype.close.call(server);
    while (Date.now() < end && (await connectionsOf(server)) > 0) await sleep(LOOK_MS);
  }
}

/** Resolves when nobody waits to be accepted any more, or at its end (ms since 1970): the system resets those that still do when their server closes. */
async function acceptWaiting(server: Server, end: number): Promise<void> {
  let accepted = 0;
  const count = () => {
    accepted += 1;
  };
  server.on('connection', count);
  // A turn of the loop accepts one, and the first one here may have looked already.
  for (let before = -1; accepted > before && Date.now() < end; ) {
    before = accepted;
    await immediate();
    await immediate();
  }
  server.off('connection', count);
}

function connectionsOf(server: Server): Promise<number> {
  return new Promise((resolve, reject) => {
    server.getConnections((error, count) => (error ? reject(error) : resolve(count)));
  });
}
