/**
 * A second rhyzome-api and rhyzome-grpc beside those of a stack, on its database and with its certificates. They end with
 * the test, also when that is killed.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import type { Stack } from './stack.js';
import { until } from './until.js';

const root = resolve(import.meta.dirname, '..', '..');

export interface SecondReplica {
  /** Base URL of its REST server. */
  base: string;
  children: { api: ChildProcess; grpc: ChildProcess };
  stop(): Promise<void>;
}

/** Resolves when both serve. */
export async function startSecondReplica(stack: Stack, name = 'second'): Promise<SecondReplica> {
  const ports = await freePorts(4);
  const at = (index: number) => `127.0.0.1:${ports[index]}`;
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const folder = join(stack.data, name);
  mkdirSync(folder, { recursive: true });
  const config = join(folder, 'rhyzome-api.json');
  const second = {
    ...settings,
    api: { ...settings.api, listen: at(0), monitoring: at(1), publicUrl: `http://${at(0)}` },
    grpc: { ...settings.grpc, enrollment: undefined, listen: [at(2)], advertise: at(2), monitoring: at(3) },
  };
  writeFileSync(config, JSON.stringify(second), { mode: 0o600 });
  const children = { api: run('api', config, folder), grpc: run('grpc', config, folder) };
  for (const monitoring of [at(1), at(3)])
    await until(`${monitoring} is ready`, () =>
      fetch(`http://${monitoring}/readyz`)
        .then(({ ok }) => ok)
        .catch(() => false),
    );
  return {
    base: `http://${at(0)}`,
    children,
    stop: async () => {
      for (const child of Object.values(children)) {
        child.kill('SIGTERM');
        await until('its end', () => child.exitCode !== null || child.signalCode !== null, 20_000);
      }
    },
  };
}

function run(program: 'api' | 'grpc', config: string, folder: string): ChildProcess {
  const log = openSync(join(folder, `${program}.log`), 'a', 0o600);
  const endWithParent = join(root, 'dist', 'apps', 'dev', 'end-with-parent.js');
  const main = join(root, 'dist', 'apps', program, 'main.js');
  const argv = ['--import', endWithParent, main, '--config', config];
  const child = spawn(process.execPath, argv, { cwd: root, stdio: ['ignore', log, log, 'ipc'] });
  closeSync(log);
  return child;
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer());
  const ports: number[] = [];
  for (const server of servers) {
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    ports.push((server.address() as { port: number }).port);
  }
  for (const server of servers) await new Promise((done) => server.close(done));
  return ports;
}
