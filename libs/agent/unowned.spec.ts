/** An agent removes what its controller calls nobody's, and nothing that is desired, over real mutual TLS. */
import { expect, test } from 'vitest';
import type { Ref } from '#libs/drivers/contract';
import { Phase, UnownedResult } from '#libs/rpc';
import { network, useAgent } from './testing/agent-fixture.js';
import { desired } from './testing/index.js';

const fixture = useAgent();

async function remove(...items: Ref[]) {
  const before = fixture.controller.all('unownedOutcomes').length;
  fixture.controller.send({ $case: 'removeUnowned', value: { items } });
  const told = await fixture.controller.until('the outcomes', () => fixture.controller.all('unownedOutcomes')[before]);
  return told.items.map(({ result }) => result);
}

async function inventory(): Promise<string[]> {
  const before = fixture.controller.all('inventory').length;
  fixture.controller.send({ $case: 'tellInventory', value: {} });
  const told = await fixture.controller.until('an inventory', () => fixture.controller.all('inventory')[before]);
  expect(told.end).toBe(true);
  return told.items.map(({ ref }) => ref!.id);
}

/** A network that the machine has, and that no controller speaks of after the agent's restart. */
async function left(): Promise<Ref> {
  const agent = await fixture.setUp();
  await fixture.joined();
  const [ref, spec] = network();
  fixture.controller.desire([desired(ref, 1n, spec)]);
  await fixture.controller.reached(ref.id, Phase.PHASE_READY, 1n);
  await agent.stop();
  fixture.controller.received.length = 0;
  return ref;
}

test('what nobody owns is told, stays, and goes when the controller says so', async () => {
  const ref = await left();
  await fixture.start();
  await fixture.joined();
  expect(await inventory()).toEqual([ref.id]);
  expect(await remove(ref)).toEqual([UnownedResult.UNOWNED_RESULT_REMOVED]);
  expect(await inventory()).toEqual([]);
  expect(await remove(ref), 'a message that comes twice').toEqual([UnownedResult.UNOWNED_RESULT_REMOVED]);
});

test('what is desired meanwhile is kept, and so is all before the snapshot’s end', async () => {
  const ref = await left();
  const [, spec] = network();
  fixture.controller.snapshot = [desired(ref, 1n, spec)];
  await fixture.start();
  await fixture.joined();
  expect(await remove(ref)).toEqual([UnownedResult.UNOWNED_RESULT_KEPT]);
  expect(await inventory()).toEqual([ref.id]);
});

test('without a snapshot nothing is known to be nobody’s', async () => {
  const ref = await left();
  fixture.controller.sendsSnapshot = false;
  await fixture.start();
  await fixture.joined();
  expect(await remove(ref)).toEqual([UnownedResult.UNOWNED_RESULT_KEPT]);
  fixture.controller.desire([], true);
  expect(await remove(ref)).toEqual([UnownedResult.UNOWNED_RESULT_REMOVED]);
});

test('a failure is told, and what comes after it is removed nevertheless', async () => {
  const ref = await left();
  const [other] = network();
  await fixture.start();
  await fixture.joined();
  await fixture.inject({ operation: 'remove', match: ref.id, code: 'in_use' });
  expect(await remove(ref, other, { ...other, kind: 'unheard' })).toEqual([
    UnownedResult.UNOWNED_RESULT_FAILED,
    UnownedResult.UNOWNED_RESULT_REMOVED,
    UnownedResult.UNOWNED_RESULT_KEPT,
  ]);
  expect(fixture.controller.all('unownedOutcomes').at(-1)!.items[0]!.failure?.code).toBe('in_use');
});
