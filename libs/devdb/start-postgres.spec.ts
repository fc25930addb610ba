/** Starts real servers: the first start, the next with its data, after a kill, and where folders are closed. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { processIdentity } from './process-identity.js';
import { type RunningPostgres, startPostgres } from './start-postgres.js';

let dir: string;
const running: RunningPostgres[] = [];
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'rhyzome-devdb-'));
  chmodSync(dir, 0o755);
});
afterEach(async () => {
  for (const server of running.splice(0)) await server.stop();
  rmSync(dir, { recursive: true, force: true });
});

async function start(options: { port?: number; dir?: string } = {}): Promise<RunningPostgres> {
  const server = await startPostgres({ dir, fast: true, ...options });
  running.push(server);
  return server;
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query({ text: sql, rowMode: 'array' })).rows.flat();
  } finally {
    await client.end();
  }
}

describe('startPostgres', () => {
  it('keeps data from one start to the next, and after a kill', async () => {
    const first = await start();
    await query(first.superuserUrl(), 'create table t as select 41 as x');
    expect(await query(first.superuserUrl(), 'show data_checksums')).toEqual(['on']);
    expect(statSync(join(dir, 'superuser-password')).mode & 0o777).toBe(0o600);
    await first.stop();
    expect(processIdentity(first.pid)).toBeUndefined();

    const second = await start({ port: first.port });
    expect(second.port).toBe(first.port);
    await query(second.superuserUrl(), 'update t set x = x + 1');
    process.kill(second.pid, 'SIGKILL');
    await second.ended;

    const third = await start({ port: first.port });
    expect(await query(third.superuserUrl(), 'select x from t')).toEqual([42]);
  });

  it('ends a server that was left behind in its folder', async () => {
    const first = await start();
    const second = await start();
    await first.ended;
    expect(await query(second.superuserUrl(), 'select 1')).toEqual([1]);
  });

  it('lets nobody in without the password', async () => {
    const server = await start();
    const wrong = server.url({ user: 'postgres', password: 'wrong', database: 'postgres' });
    await expect(query(wrong, 'select 1')).rejects.toThrow('password authentication failed');
    await expect(query(`${wrong}?host=${join(dir, 'socket')}`, 'select 1')).rejects.toThrow(
      'password authentication failed',
    );
  });

  it('says why it does not start', async () => {
    await (await start()).stop();
    writeFileSync(join(dir, 'data', 'postgresql.auto.conf'), 'no_such_setting = 1\n');
    await expect(start()).rejects.toThrow(/does not start:[\s\S]*no_such_setting/);
  });

  it.skipIf(process.getuid?.() !== 0)('starts as root below a folder that only root may pass', async () => {
    const closed = join(dir, 'closed');
    mkdirSync(closed, { mode: 0o700 });
    const server = await start({ dir: join(closed, 'postgres') });
    expect(await query(server.superuserUrl(), 'select 1')).toEqual([1]);
    await server.stop();
    expect(processIdentity(server.pid)).toBeUndefined();
  });
});
