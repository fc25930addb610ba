/**
 * Further replicas of rhyzome-api on a stack's database: one with low limits, and one whose way to the database can be cut.
 * They end with the test, also when that is killed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { dirname, join, resolve } from 'node:path';
import type { Stack } from '../harness/stack.js';
import { until } from '../harness/until.js';

const root = resolve(import.meta.dirname, '..', '..');

export interface Replica {
  base: string;
  stop(): Promise<void>;
}

/** A replica with the stack's settings, changed. */
export async function startReplica(stack: Stack, name: string, change: (settings: any) => void): Promise<Replica> {
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const [port, monitoring] = [await freePort(), await freePort()];
  Object.assign(settings.api, { listen: `127.0.0.1:${port}`, monitoring: `127.0.0.1:${monitoring}` });
  change(settings);
  const file = join(dirname(stack.dev.config), `${name}.json`);
  writeFileSync(file, JSON.stringify(settings), { mode: 0o600 });
  const endWithParent = join(root, 'dist', 'apps', 'dev', 'end-with-parent.js');
  const argv = ['--import', endWithParent, join(root, 'bin', 'rhyzome-api.js'), '--config', file];
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
  const base = `http://127.0.0.1:${port}`;
  await until(`replica ${name}`, async () => {
    if (child.exitCode !== null) throw new Error(`replica ${name} ended with ${child.exitCode}`);
    return fetch(`${base}/v1/openapi.json`).then(
      (answer) => answer.ok,
      () => false,
    );
  });
  return { base, stop: () => end(child) };
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** A way to a TCP server that can be cut. */
export class Way {
  private readonly sockets = new Set<Socket>();
  private constructor(
    private readonly server: ReturnType<typeof createServer>,
    readonly port: number,
  ) {}

  static async to(host: string, port: number): Promise<Way> {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const way = new Way(server, (server.address() as AddressInfo).port);
    server.on('connection', (near) => {
      const far = connect(port, host);
      for (const socket of [near, far]) {
        way.sockets.add(socket);
        // What ends one end ends the other.
        socket.on('error', () => socket.destroy());
        socket.on('close', () => {
          way.sockets.delete(socket);
          near.destroy();
          far.destroy();
        });
      }
      near.pipe(far).pipe(near);
    });
    return way;
  }

  /** From now on nothing passes, and nobody is let in. */
  cut(): void {
    this.server.close();
    for (const socket of this.sockets) socket.destroy();
  }
}
