/** What a deed gives back, and what is said of one whose agent died in the middle. */
import { once } from 'node:events';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { type Capability, DriverError } from '#libs/drivers/contract';
import { DeedOutcome } from '#libs/rpc';
import { Deeds } from './deeds.js';
import { KeyedQueue } from './schedule.js';

const quiet = { debug() {}, info() {}, warn() {}, error() {} };
const ref = { tenantId: 'acme', kind: 'snapshot', id: '0193f9a0-0000-7000-8000-000000000001' };
let dir: string;
let asked: unknown[];

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'rhyzome-deeds-'));
  asked = [];
});
afterEach(() => rm(dir, { recursive: true }));

const snapshots = {
  kind: 'snapshot',
  async operate(_ref: unknown, verb: string, args: unknown) {
    asked.push([verb, args]);
    if (verb === 'fail') throw new DriverError('disk_full', 'The disk is full.', { permanent: true });
    if (verb === 'tell') return { text: 'x'.repeat(20_000) };
    return verb === 'export' ? { sha256: 'ab', sizeBytes: 5 } : undefined;
  },
} as unknown as Capability<unknown, unknown>;

const open = () => Deeds.open(dir, [snapshots], new KeyedQueue(), quiet, new AbortController().signal);

function deed(operationId: string, verb: string, repeatable = false) {
  return { operationId, ref, verb, argumentsJson: '{"operationId":"x"}', repeatable };
}

test('a deed’s result is told, and told again from the record', async () => {
  const first = await open();
  const done = { outcome: DeedOutcome.DEED_OUTCOME_DONE, failure: undefined };
  const result = { ...done, resultJson: '{"sha256":"ab","sizeBytes":5}' };
  expect(await first.perform(deed('op-1', 'export'))).toEqual({ operationId: 'op-1', ...result });
  expect(await first.perform(deed('op-2', 'restore'))).toEqual({ operationId: 'op-2', ...done, resultJson: '' });
  expect((await first.perform(deed('op-3', 'tell'))).resultJson).toBe('{"truncated":true}');
  const next = await open();
  expect(await next.perform(deed('op-1', 'export'))).toEqual({ operationId: 'op-1', ...result });
  expect(asked).toEqual(['export', 'restore', 'tell'].map((verb) => [verb, { operationId: 'x' }]));
});

test('a deed that failed says why and is not tried again', async () => {
  const failed = await (await open()).perform(deed('op-1', 'fail'));
  expect(failed).toMatchObject({ outcome: DeedOutcome.DEED_OUTCOME_FAILED, failure: { code: 'disk_full' } });
  expect(await (await open()).perform(deed('op-1', 'fail'))).toEqual(failed);
  expect(asked).toHaveLength(1);
});

test('one that is asked for with other arguments while it lasts is begun again with those, and both askers learn its end', async () => {
  const tried: unknown[] = [];
  const waiting = {
    kind: 'snapshot',
    async operate(_ref: unknown, _verb: string, args: { to: string }, signal: AbortSignal) {
      tried.push(args.to);
      if (args.to === 'old') await once(signal, 'abort');
      signal.throwIfAborted();
      return { to: args.to };
    },
  } as unknown as Capability<unknown, unknown>;
  const deeds = await Deeds.open(dir, [waiting], new KeyedQueue(), quiet, new AbortController().signal);
  const to = (where: string) => ({ ...deed('op-1', 'send', true), argumentsJson: JSON.stringify({ to: where }) });
  const first = deeds.perform(to('old'));
  await expect.poll(() => tried).toEqual(['old']);
  expect(deeds.perform(to('old'))).toBe(first);
  const second = await deeds.perform(to('new'));
  expect(second).toMatchObject({ outcome: DeedOutcome.DEED_OUTCOME_DONE, resultJson: '{"to":"new"}' });
  expect(await first).toEqual(second);
  expect(tried).toEqual(['old', 'new']);
});

test('one that was begun and not ended is unclear, unless repeating it does no harm', async () => {
  const begun = (operationId: string) =>
    writeFile(
      join(dir, 'deeds', `${operationId}.json`),
      JSON.stringify({ operationId, ref, verb: 'restore', state: 'started' }),
    );
  const deeds = await open();
  await begun('op-1');
  await begun('op-2');
  expect((await deeds.perform(deed('op-1', 'restore'))).outcome).toBe(DeedOutcome.DEED_OUTCOME_UNCLEAR);
  expect((await deeds.perform(deed('op-1', 'restore'))).outcome).toBe(DeedOutcome.DEED_OUTCOME_UNCLEAR);
  expect(asked).toEqual([]);
  expect((await deeds.perform(deed('op-2', 'restore', true))).outcome).toBe(DeedOutcome.DEED_OUTCOME_DONE);
  expect(asked).toHaveLength(1);
  // An administrator said: do it again.
  expect((await deeds.perform(deed('op-1', 'restore', true))).outcome).toBe(DeedOutcome.DEED_OUTCOME_DONE);
  expect(asked).toHaveLength(2);
  expect(await readdir(join(dir, 'deeds'))).toEqual(['op-1.json', 'op-2.json']);
});
