/** Sockets of servers that run, and of servers that were killed. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { removeStaleSocket } from './stale-socket.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'rhyzome-socket-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

it('takes away what a killed server left, so that the next one can listen', async () => {
  const path = join(folder, 's');
  const program = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => console.log('up'))`;
  const killed = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(killed.stdout, 'data');
  const ended = once(killed, 'exit');
  killed.kill('SIGKILL');
  await ended;
  expect(existsSync(path)).toBe(true);
  await removeStaleSocket(`unix:${path}`);
  const next = createServer().listen(path);
  await once(next, 'listening');
  await removeStaleSocket(`unix:${path}`);
  expect(existsSync(path)).toBe(true);
  next.close();
});

it('leaves files, missing paths and ports alone', async () => {
  const file = join(folder, 'file');
  writeFileSync(file, '');
  for (const address of [`unix:${file}`, `unix:${folder}/none`, '127.0.0.1:1']) await removeStaleSocket(address);
  expect(existsSync(file)).toBe(true);
});
