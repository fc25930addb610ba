/** Health, readiness and Prometheus metrics on a port of their own, so that they are never open to tenants. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { collectDefaultMetrics, Registry } from 'prom-client';

export interface MonitoringOptions {
  /** host:port */
  listen: string;
  /** Resolves when the process can serve; rejects with the reason. */
  ready(): Promise<void>;
}

export interface Monitoring {
  registry: Registry;
  port: number;
  /** From now on not ready: load balancers look elsewhere. */
  drain(): void;
  close(): Promise<void>;
}

const READY_MS = 2_000;

export async function startMonitoring(options: MonitoringOptions): Promise<Monitoring> {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry, prefix: 'rhyzome_' });
  let draining = false;
  const server = createServer((request, response) => {
    const answer = (status: number, type: string, body: string) =>
      response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' }).end(body);
    const fail = (error: unknown) => answer(503, 'text/plain', `${(error as Error).message}\n`);
    const path = request.url?.split('?')[0];
    if (request.method !== 'GET' && request.method !== 'HEAD') answer(405, 'text/plain', 'GET only\n');
    else if (path === '/healthz') answer(200, 'text/plain', 'ok\n');
    else if (path === '/readyz') {
      if (draining) fail(new Error('draining'));
      else withTimeout(options.ready()).then(() => answer(200, 'text/plain', 'ready\n'), fail);
    } else if (path === '/metrics') {
      registry.metrics().then((text) => answer(200, registry.contentType, text), fail);
    } else answer(404, 'text/plain', 'there are /healthz, /readyz and /metrics\n');
  });
  await listen(server, options.listen);
  return {
    registry,
    port: (server.address() as AddressInfo).port,
    drain: () => {
      draining = true;
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function listen(server: Server, address: string): Promise<void> {
  const at = address.lastIndexOf(':');
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(Number(address.slice(at + 1)), address.slice(0, at).replace(/^\[|\]$/g, ''), () => resolve());
  });
}

async function withTimeout(promise: Promise<void>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('not ready in time')), READY_MS);
  });
  await Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
