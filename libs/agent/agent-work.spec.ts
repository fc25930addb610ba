/** What an agent does for single machines, over real mutual TLS: their images, their deeds, their consoles. */
import { randomBytes, randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Ref } from '#libs/drivers/contract';
import { DeedOutcome, Phase } from '#libs/rpc';
import { disk, instance, network, sha256Of, useAgent } from './testing/agent-fixture.js';
import { desired } from './testing/index.js';

const { PHASE_READY, PHASE_PROGRESSING } = Phase;
const fixture = useAgent();

describe('images', () => {
  test('wrong content is thrown away and never used', async () => {
    await fixture.setUp();
    await fixture.joined();
    const right = randomBytes(3000);
    fixture.controller.images.set(sha256Of(right), randomBytes(3000));
    const [diskRef, diskSpec] = disk(right);
    fixture.controller.desire([desired(diskRef, 1n, diskSpec)]);
    const told = await fixture.controller.reached(diskRef.id, PHASE_PROGRESSING, 1n);
    expect(told.failure?.code).toBe('image_unavailable');
    fixture.controller.images.set(sha256Of(right), right);
    await fixture.controller.reached(diskRef.id, PHASE_READY, 1n);
    expect(await readFile(join(fixture.stateDir, 'images', sha256Of(right)))).toEqual(right);
  });

  test('a fetch that breaks off goes on where it was; two disks share one fetch', async () => {
    await fixture.setUp();
    await fixture.joined();
    fixture.controller.breakAfter = 3000;
    const [[a, aSpec], [b, bSpec]] = [disk(), disk()];
    fixture.controller.desire([desired(a, 1n, aSpec), desired(b, 1n, bSpec)]);
    await Promise.all([
      fixture.controller.reached(a.id, PHASE_READY, 1n),
      fixture.controller.reached(b.id, PHASE_READY, 1n),
    ]);
    expect(fixture.controller.fetches.map(({ offset }) => offset)).toEqual([0n, 3000n]);
  });
});

describe('deeds and consoles', () => {
  async function machine(): Promise<Ref> {
    const [netRef, netSpec] = network();
    const [vmRef, vmSpec] = instance(netRef);
    fixture.controller.desire([desired(netRef, 1n, netSpec), desired(vmRef, 1n, vmSpec)]);
    await fixture.controller.reached(vmRef.id, PHASE_READY, 1n);
    return vmRef;
  }

  function deed(ref: Ref, operationId: string, verb = 'reboot') {
    fixture.controller.send({ $case: 'deed', value: { operationId, ref, verb, argumentsJson: '', repeatable: false } });
    const before = fixture.controller.all('deedResult').length;
    return fixture.controller.until(`outcome of ${operationId}`, () => fixture.controller.all('deedResult')[before]);
  }

  test('a reboot happens once, however often it is asked for, also after a restart', async () => {
    const first = await fixture.setUp();
    await fixture.joined();
    const ref = await machine();
    expect((await deed(ref, 'op-1')).outcome).toBe(DeedOutcome.DEED_OUTCOME_DONE);
    expect((await deed(ref, 'op-1')).outcome).toBe(DeedOutcome.DEED_OUTCOME_DONE);
    expect(await fixture.boots(ref)).toBe(2);
    await first.stop();
    fixture.controller.received.length = 0;
    await fixture.start();
    await fixture.joined();
    expect((await deed(ref, 'op-1')).outcome).toBe(DeedOutcome.DEED_OUTCOME_DONE);
    expect(await fixture.boots(ref)).toBe(2);
    expect((await deed(ref, 'op-2', 'explode')).failure?.code).toBe('unknown_verb');
  });

  test('the console log comes whole or by its end, and an unknown machine is an error of its own', async () => {
    await fixture.setUp();
    await fixture.joined();
    const ref = await machine();
    const read = async (relayId: string, from: Ref, tailBytes = 0n) => {
      fixture.controller.send({
        $case: 'relayRequest',
        value: { relayId, ref: from, channel: 'console-log', tailBytes, mayType: false },
      });
      const mine = () => fixture.controller.all('relayChunk').filter((chunk) => chunk.relayId === relayId);
      await fixture.controller.until('the end of the log', () => mine().some(({ end }) => end));
      return { text: Buffer.concat(mine().map(({ data }) => data)).toString(), failure: mine().at(-1)?.failure };
    };
    const whole = await read('r1', ref);
    expect(whole.text).toContain('address=10.0.0.5\r\nhostname=web\r\n');
    expect((await read('r2', ref, 7n)).text).toBe(whole.text.slice(-7));
    expect((await read('r3', { ...ref, id: randomUUID() })).failure?.code).toBe('not_found');
  });
});
