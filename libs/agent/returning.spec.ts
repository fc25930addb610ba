/** An agent whose node was fenced while it could not be heard: what is no longer its own stops before anything else. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { InstanceSpec, NetworkSpec, Ref } from '#libs/drivers/contract';
import { Phase } from '#libs/rpc';
import { instance, network, useAgent } from './testing/agent-fixture.js';
import { desired } from './testing/index.js';

const fixture = useAgent();

interface Stands {
  net: [Ref, NetworkSpec];
  kept: [Ref, InstanceSpec];
  lost: [Ref, InstanceSpec];
}

/** A network with two machines; from now on the controller knows only one of them, and the network not. */
async function fenced(): Promise<Stands & { stop: () => Promise<void> }> {
  const { stop } = await fixture.setUp();
  await fixture.joined();
  const [net, other] = [network(), network()];
  const [kept, lost] = [instance(net[0], undefined, 'kept'), instance(other[0], undefined, 'lost')];
  const items = [net, other, kept, lost].map(([ref, spec]) => desired(ref, 1n, spec));
  fixture.controller.desire(items);
  for (const [ref] of [kept, lost]) await fixture.controller.reached(ref.id, Phase.PHASE_READY, 1n);
  fixture.controller.snapshot = [desired(net[0], 2n, net[1]), desired(kept[0], 2n, kept[1])];
  return { net: other, kept, lost, stop };
}

async function fence(epoch: bigint): Promise<void> {
  await fixture.controller.stop();
  fixture.controller.received.length = 0;
  fixture.controller.epoch = epoch;
  await fixture.controller.listen();
}

async function machine() {
  const held = JSON.parse(await readFile(join(fixture.stateDir, 'sim-state.json'), 'utf8'));
  const power = (ref: Ref) => new Map<string, { powerState: string }>(held.instances).get(ref.id)?.powerState;
  return {
    power,
    isClosed: (ref: Ref) => new Map<string, { isClosed?: boolean }>(held.networks).get(ref.id)?.isClosed,
  };
}

const said = () => fixture.controller.all('stopped');
const epochFile = () => readFile(join(fixture.stateDir, 'epoch.json'), 'utf8');

test('what is not its own stops hard and stays there; only then it says so, and works on', async () => {
  const { net, kept, lost } = await fenced();
  expect(JSON.parse(await epochFile())).toEqual({ epoch: '1' });
  await fence(2n);
  await fixture.controller.until('it has stopped', () => said().length > 0);
  expect(said()).toEqual([{ epoch: 2n }]);
  expect(fixture.controller.all('hello')[0]).toMatchObject({ epoch: 1n });
  const now = await machine();
  expect([now.power(kept[0]), now.power(lost[0])]).toEqual(['running', 'stopped']);
  expect(now.isClosed(net[0])).toBe(true);
  await fixture.controller.reached(kept[0].id, Phase.PHASE_READY, 2n);
  const kinds = fixture.controller.received.map(({ $case }) => $case);
  expect(kinds.indexOf('report')).toBeGreaterThan(kinds.indexOf('stopped'));
  await fence(2n);
  await fixture.joined();
  await fixture.controller.reached(kept[0].id, Phase.PHASE_READY, 2n);
  expect(fixture.controller.all('hello')[0]).toMatchObject({ epoch: 2n });
  expect(said()).toEqual([]);
});

test('what it was asked to do and still does is broken off', async () => {
  const { lost } = await fenced();
  await fixture.inject({ operation: 'operate', kind: 'instance', delayMs: 120_000 });
  const reboot = { operationId: 'op-1', ref: lost[0], verb: 'reboot', argumentsJson: '', repeatable: true };
  fixture.controller.send({ $case: 'deed', value: reboot });
  const record = join(fixture.stateDir, 'deeds/op-1.json');
  await expect.poll(() => readFile(record, 'utf8').catch(() => '')).toContain('started');
  await fence(2n);
  await fixture.controller.until('it has stopped', () => said().length > 0);
  expect((await machine()).power(lost[0])).toBe('stopped');
  expect(await readFile(record, 'utf8')).toContain('started');
});

test('an agent that dies in the middle, or on a machine that does not stop, begins anew', async () => {
  const { kept, lost, stop } = await fenced();
  await fixture.inject({ operation: 'halt', kind: 'instance', code: 'hypervisor_refused' });
  await fence(2n);
  await fixture.joined();
  await expect.poll(() => fixture.controller.all('heartbeat').length).toBeGreaterThan(3);
  expect([said(), fixture.controller.all('report')]).toEqual([[], []]);
  expect(JSON.parse(await epochFile())).toEqual({ epoch: '1' });
  await stop();
  await fixture.inject();
  await fixture.start();
  await fixture.controller.until('it has stopped', () => said().length > 0);
  expect(fixture.controller.all('hello').every(({ epoch }) => epoch === 1n)).toBe(true);
  const now = await machine();
  expect([now.power(kept[0]), now.power(lost[0])]).toEqual(['running', 'stopped']);
  await fixture.controller.reached(kept[0].id, Phase.PHASE_READY, 2n);
});

test('a machine that was set up anew under the name of a fenced node stops what it has', async () => {
  await fixture.setUp();
  fixture.controller.epoch = 7n;
  await fixture.controller.until('it has stopped', () => said().length > 0);
  expect(said()).toEqual([{ epoch: 7n }]);
  expect(JSON.parse(await epochFile())).toEqual({ epoch: '7' });
});
