/** Who holds the data folder, and which ports its servers get, with real processes and sockets. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { processIdentity } from '#libs/devdb';
import { lockDataFolder, openDataFolder, readJson, writeWhole } from './data-folder.js';
import { choosePorts, type Ports } from './ports.js';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'rhyzome-dev-'));
});
afterEach(() => rmSync(root, { recursive: true }));

describe('lockDataFolder', () => {
  it('says who has the folder, and lets the next one have it after', async () => {
    const holder = spawn('sleep', ['60']);
    await once(holder, 'spawn');
    writeFileSync(join(root, 'lock.json'), JSON.stringify(processIdentity(holder.pid ?? 0)));
    expect(() => lockDataFolder(root)).toThrow(`process ${holder.pid}`);
    const ended = once(holder, 'exit');
    holder.kill('SIGKILL');
    await ended;
    lockDataFolder(root)();
    expect(existsSync(join(root, 'lock.json'))).toBe(false);
  });

  it('takes no other process for the holder that had the same number', () => {
    writeFileSync(join(root, 'lock.json'), JSON.stringify({ pid: process.pid, start: '1' }));
    const unlock = lockDataFolder(root);
    expect(readJson(join(root, 'lock.json'))).toEqual(processIdentity(process.pid));
    unlock();
  });
});

describe('openDataFolder', () => {
  it('keeps the socket of gRPC short enough', () => {
    const long = join(root, 'x'.repeat(120));
    expect(openDataFolder(long).grpcSocket.length).toBeLessThanOrEqual(107);
    expect(openDataFolder(root).grpcSocket).toBe(join(root, 'grpc.sock'));
  });

  it('writes what only its owner may read', () => {
    writeWhole(join(root, 'x.json'), { secret: 1 });
    expect(statSync(join(root, 'x.json')).mode & 0o777).toBe(0o600);
  });
});

describe('choosePorts', () => {
  it('keeps ports from one start to the next, gives way to others, and refuses a wish for a taken one', async () => {
    const file = join(root, 'ports.json');
    const wish = { api: 0, grpc: 0, issuer: 0 };
    const choose = async (asked: Partial<Ports>) => {
      const { ports, release } = await choosePorts(asked, file);
      release();
      return ports;
    };
    const first = await choose(wish);
    expect(new Set(Object.values(first)).size).toBe(7);
    expect(await choose(wish)).toEqual(first);
    const other = createServer().listen(first.api, '127.0.0.1');
    await once(other, 'listening');
    try {
      const second = await choose(wish);
      expect(second.api).not.toBe(first.api);
      expect(second.database).toBe(first.database);
      await expect(choose({ api: first.api })).rejects.toThrow(`port ${first.api} (api) is taken`);
    } finally {
      other.close();
    }
  });

  it('gives two that start at once no port in common, before anybody listens', async () => {
    const wish = { api: 0, grpc: 0, issuer: 0 };
    const { ports: first } = await choosePorts(wish, join(root, 'first.json')).then((chosen) => {
      chosen.release();
      return chosen;
    });
    for (const name of ['a.json', 'b.json']) writeWhole(join(root, name), first);
    const both = await Promise.all(['a.json', 'b.json'].map((name) => choosePorts(wish, join(root, name))));
    for (const { release } of both) release();
    expect(new Set(both.flatMap(({ ports }) => Object.values(ports))).size).toBe(14);
  });
});
