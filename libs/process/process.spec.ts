/** Monitoring's answers and what logs leave out. */
import { Writable } from 'node:stream';
import { describe, expect, test } from 'vitest';
import { createLog, startMonitoring, version } from '#libs/process';

describe('monitoring', () => {
  test('tells a process that lives from one that can serve, and drains', async () => {
    let fault: Error | undefined;
    const monitoring = await startMonitoring({
      listen: '127.0.0.1:0',
      ready: async () => {
        if (fault) throw fault;
      },
    });
    const ask = async (path: string, method = 'GET') => {
      const response = await fetch(`http://127.0.0.1:${monitoring.port}${path}`, { method });
      return { status: response.status, text: await response.text() };
    };
    expect(await ask('/healthz')).toEqual({ status: 200, text: 'ok\n' });
    expect(await ask('/readyz')).toEqual({ status: 200, text: 'ready\n' });
    fault = new Error('the database is away');
    expect(await ask('/readyz')).toEqual({ status: 503, text: 'the database is away\n' });
    expect((await ask('/healthz')).status).toBe(200);
    fault = undefined;
    const metrics = await ask('/metrics');
    expect(metrics.status).toBe(200);
    expect(metrics.text).toContain('rhyzome_process_cpu_seconds_total');
    expect((await ask('/nothing')).status).toBe(404);
    expect((await ask('/readyz', 'POST')).status).toBe(405);
    monitoring.drain();
    expect((await ask('/readyz')).status).toBe(503);
    expect((await ask('/healthz')).status).toBe(200);
    await monitoring.close();
  });

  test('answers in time even when what it asks does not', { timeout: 10_000 }, async () => {
    const monitoring = await startMonitoring({ listen: '127.0.0.1:0', ready: () => new Promise(() => undefined) });
    expect((await fetch(`http://127.0.0.1:${monitoring.port}/readyz`)).status).toBe(503);
    await monitoring.close();
  });
});

describe('logs', () => {
  test('leave out what may be a secret, by its name', () => {
    const lines: string[] = [];
    const log = createLog('test', 'info');
    const stream = (log as unknown as Record<symbol, unknown>)[
      Object.getOwnPropertySymbols(log).find((symbol) => String(symbol) === 'Symbol(pino.stream)')!
    ] as Writable;
    const write = stream.write;
    stream.write = ((line: string) => lines.push(line)) as unknown as typeof write;
    log.info({ token: 'hush', headers: { authorization: 'hush' }, config: { password: 'hush' }, job: 'j-1' }, 'hello');
    stream.write = write;
    expect(lines).toHaveLength(1);
    expect(lines[0]).not.toContain('hush');
    expect(JSON.parse(lines[0]!)).toMatchObject({ msg: 'hello', job: 'j-1', process: 'test', pid: process.pid });
  });
});

test('the version is package.json’s', () => {
  expect(version()).toMatch(/^\d+\.\d+\.\d+/);
});
