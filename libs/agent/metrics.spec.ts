import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type { Capability, Metric, Ref } from '#libs/drivers/contract';
import type { MetricsReport } from '#libs/rpc';
import { GuestMetrics } from './metadata/guest-metrics.js';
import { MetricsPump } from './metrics.js';

const EVERY_MS = 10_000;
const up: Metric = { name: 'up', type: 'gauge', value: 1 };
const cpu: Metric = { name: 'cpu_seconds_total', type: 'counter', value: 3 };

let machines: Map<string, Metric[]>;
let sent: string[][];
let send: ((report: MetricsReport) => Promise<void>) | undefined;
let guests: GuestMetrics;
let pump: MetricsPump;

const refOf = (id: string): Ref => ({ tenantId: 'acme', kind: 'instance', id });

beforeEach(() => {
  vi.useFakeTimers();
  machines = new Map([['a', [up, cpu]]]);
  sent = [];
  send = async ({ items }) => {
    sent.push(items.map(({ ref, metrics, custom }) => `${custom ? 'custom ' : ''}${ref!.id}: ${metrics.length}`));
  };
  guests = new GuestMetrics();
  const capability = {
    kind: 'instance',
    metrics: async () => [...machines].map(([id, metrics]) => ({ ref: refOf(id), metrics })),
  } as unknown as Capability<unknown, unknown>;
  const log = { debug: vi.fn(), info: vi.fn(), warn: vi.fn(), error: vi.fn() };
  pump = new MetricsPump({
    capabilities: [capability],
    guests,
    log,
    sender: () => send,
    everyMs: EVERY_MS,
    repeatMs: 30_000,
  });
});
afterEach(() => {
  pump.close();
  vi.useRealTimers();
});

/** What was sent with each of the next looks. */
async function looks(count: number): Promise<string[][]> {
  sent = [];
  for (let n = 0; n < count; n += 1) await vi.advanceTimersByTimeAsync(EVERY_MS);
  return sent;
}

it('samples what is new with the next look, and then every half minute', async () => {
  expect(await looks(1)).toEqual([['a: 2']]);
  machines.set('b', [up]);
  expect(await looks(3)).toEqual([['b: 1'], ['a: 2']]);
  expect(await looks(3)).toEqual([['b: 1'], ['a: 2']]);
});

it('samples at once what has stopped or started, as it has other metrics then', async () => {
  await looks(1);
  machines.set('a', [{ ...up, value: 0 }]);
  expect(await looks(1)).toEqual([['a: 1']]);
  expect(await looks(2)).toEqual([]);
});

it('sends what a guest reports with the next look', async () => {
  await looks(1);
  expect(guests.take(refOf('a'), 'application/json', '{"queue_length": 42}')).toEqual([]);
  expect(await looks(1)).toEqual([['custom a: 1']]);
});

it('sends all again with the next look when another stream has begun', async () => {
  await looks(1);
  pump.sendAgain();
  expect(await looks(1)).toEqual([['a: 2']]);
});

it('sends again with the next look what did not arrive, and forgets what is gone', async () => {
  const working = send;
  send = () => Promise.reject(new Error('the stream broke'));
  await looks(1);
  send = working;
  expect(await looks(1)).toEqual([['a: 2']]);
  machines.clear();
  await looks(1);
  machines.set('a', [up, cpu]);
  expect(await looks(1)).toEqual([['a: 2']]);
});
