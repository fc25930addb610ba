/** The agent with the sim driver against a controller over real mutual TLS: connecting, and making it so. */
import { randomUUID } from 'node:crypto';
import { mkdtemp, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { RhyzomeError } from '#libs/core';
import { Phase } from '#libs/rpc';
import { disk, image, instance, network, sha256Of, useAgent } from './testing/agent-fixture.js';
import { desired, FakeController } from './testing/index.js';

const { PHASE_READY, PHASE_ABSENT, PHASE_FAILED, PHASE_PROGRESSING } = Phase;
const fixture = useAgent();

describe('connecting', () => {
  test('joins, says hello again with what it has, beats its heart', async () => {
    await fixture.setUp();
    await fixture.joined();
    const [first, second] = fixture.controller.all('hello');
    expect(first).toMatchObject({ installationId: '', kinds: [] });
    expect(second).toMatchObject({
      installationId: fixture.controller.installationId,
      driver: 'sim',
      kinds: ['network', 'disk', 'snapshot', 'instance'],
      labels: { rack: '7' },
      capacity: { vcpus: 4096 },
    });
    expect(fixture.controller.peers).toEqual(['node-1', 'node-1']);
    await fixture.controller.until('heartbeats', () => fixture.controller.all('heartbeat').length > 2);
    expect(fixture.controller.all('hello')).toHaveLength(2);
  });

  test('comes back by itself when the controller was away, and tells what it has', async () => {
    await fixture.setUp();
    await fixture.joined();
    const [ref, spec] = network();
    fixture.controller.snapshot = [desired(ref, 1n, spec)];
    fixture.controller.desire(fixture.controller.snapshot);
    await fixture.controller.reached(ref.id, PHASE_READY, 1n);
    await fixture.controller.stop();
    fixture.controller.received.length = 0;
    await fixture.controller.listen();
    await fixture.joined();
    expect(fixture.controller.all('hello').at(-1)!.inventory).toMatchObject([
      { ref, revision: 1n, phase: PHASE_READY },
    ]);
    await fixture.controller.reached(ref.id, PHASE_READY, 1n);
  });

  test('goes to the next of several controllers when one goes away, and back again', async () => {
    await fixture.setUp();
    await fixture.joined();
    const second = await FakeController.start(fixture.pki);
    fixture.opened.push(() => second.stop());
    const stateDir = await mkdtemp(join(fixture.pki.dir, 'state-'));
    await fixture.start({ stateDir, controller: [fixture.controller.address, second.address] });
    const connected = (one: FakeController) => one.all('hello').some(({ kinds }) => kinds.length > 0);
    fixture.controller.received.length = 0;
    for (const [left, other] of [
      [second, fixture.controller],
      [fixture.controller, second],
    ] as const) {
      await left.stop();
      await other.until('the agent is here', () => connected(other));
      left.received.length = 0;
      await left.listen();
    }
  });

  test('leaves a stream that is only half open', async () => {
    await fixture.setUp();
    fixture.controller.acknowledges = false;
    await fixture.controller.until('hellos again', () => fixture.controller.all('hello').length >= 4);
  });

  test('obeys no controller of another installation, says so, and comes back when it is the right one', async () => {
    const first = await fixture.setUp();
    await fixture.joined();
    const [ref, spec] = network();
    fixture.controller.desire([desired(ref, 1n, spec)]);
    await fixture.controller.reached(ref.id, PHASE_READY, 1n);
    await first.stop();
    const mine = fixture.controller.installationId;
    fixture.controller.received.length = 0;
    fixture.controller.installationId = '99999999-2222-4333-8444-555555555555';
    fixture.controller.snapshot = [desired(ref, 2n, undefined)];
    const { errors } = await fixture.start();
    await fixture.controller.until('a second try', () => fixture.controller.all('hello').length >= 2);
    expect(errors[0]).toContain(mine);
    expect(fixture.controller.all('report')).toEqual([]);
    fixture.controller.installationId = mine;
    await fixture.controller.reached(ref.id, PHASE_ABSENT, 2n);
  });

  test('says what a controller that lets it not in says, and asks more rarely', async () => {
    const refusing = { refusedMs: 60_000 };
    const { errors } = await fixture.setUp({ timing: refusing });
    await fixture.joined();
    fixture.controller.refusal = new RhyzomeError(
      'forbidden',
      'This machine belongs to another installation of Rhyzome.',
    );
    await fixture.controller.stop();
    await fixture.controller.listen();
    await expect.poll(() => errors).toHaveLength(1);
    expect(errors[0]).toContain('This machine belongs to another installation');
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(errors).toHaveLength(1);
  });

  test('two agents on one state directory: the second is told', async () => {
    await fixture.setUp();
    await expect(fixture.start()).rejects.toThrow('Another agent runs');
  });
});

describe('making it so', () => {
  test('network and disk with its image, then instance; away in reverse, in one message each', async () => {
    await fixture.setUp();
    await fixture.joined();
    const [netRef, netSpec] = network();
    const [diskRef, diskSpec] = disk();
    const [vmRef, vmSpec] = instance(netRef, diskRef);
    const [wantedVm, wantedDisk] = [desired(vmRef, 1n, vmSpec), desired(diskRef, 1n, diskSpec)];
    fixture.controller.desire([wantedVm, wantedDisk, desired(netRef, 1n, netSpec)]);
    const ready = await fixture.controller.reached(vmRef.id, PHASE_READY, 1n);
    expect(JSON.parse(ready.statusJson)).toEqual({ powerState: 'running' });
    expect(
      fixture.controller
        .all('report')
        .flatMap(({ items }) => items)
        .filter(({ failure }) => failure),
    ).toEqual([]);
    expect(await readFile(join(fixture.stateDir, 'images', sha256Of(image)))).toEqual(image);
    fixture.controller.desire([desired(netRef, 2n, undefined), desired(vmRef, 2n, undefined)]);
    await fixture.controller.reached(netRef.id, PHASE_ABSENT, 2n);
    expect(
      fixture.controller
        .all('report')
        .flatMap(({ items }) => items)
        .filter(({ failure }) => failure),
    ).toEqual([]);
  });

  test('tries again after a failure that may pass, gives up on one that cannot, and neither keeps others', async () => {
    await fixture.setUp();
    await fixture.joined();
    const [netRef, netSpec] = network();
    const [good, goodSpec] = instance(netRef);
    const [flaky, flakySpec] = instance(netRef, undefined, 'flaky');
    const [broken, brokenSpec] = instance(netRef, undefined, 'broken');
    await fixture.inject(
      { kind: 'instance', operation: 'apply', match: 'fl*', times: 3, code: 'hypervisor_refused', message: 'Not now.' },
      { operation: 'apply', match: broken.id, code: 'disk_full', permanent: true },
    );
    fixture.controller.desire([
      desired(broken, 1n, brokenSpec),
      desired(flaky, 1n, flakySpec),
      desired(good, 1n, goodSpec),
      desired(netRef, 1n, netSpec),
    ]);
    await fixture.controller.reached(good.id, PHASE_READY, 1n);
    expect((await fixture.controller.reached(broken.id, PHASE_FAILED, 1n)).failure?.code).toBe('disk_full');
    await fixture.controller.reached(flaky.id, PHASE_READY, 1n);
    const told = fixture.controller.all('report').flatMap(({ items }) => items);
    expect(told.find(({ phase, ref }) => phase === PHASE_PROGRESSING && ref?.id === flaky.id)?.failure).toEqual({
      code: 'hypervisor_refused',
      message: 'Not now.',
    });
  });

  test('a newer revision takes the place of a try under way; an older one that comes late changes nothing', async () => {
    await fixture.setUp();
    await fixture.joined();
    const [ref, spec] = network();
    await fixture.inject({ kind: 'network', operation: 'apply', times: 1, delayMs: 60_000 });
    fixture.controller.desire([desired(ref, 1n, spec)]);
    await new Promise((resolve) => setTimeout(resolve, 100));
    fixture.controller.desire([desired(ref, 2n, network([])[1])]);
    await fixture.controller.reached(ref.id, PHASE_READY, 2n);
    fixture.controller.desire([desired(ref, 1n, undefined)]);
    fixture.controller.desire([desired(ref, 2n, network([])[1])]);
    await fixture.controller.until('told again', () => fixture.controller.all('report').length >= 2);
    expect(fixture.controller.told(ref.id)).toMatchObject({ phase: PHASE_READY, revision: 2n });
  });

  test('what this node cannot do is said', async () => {
    await fixture.setUp();
    await fixture.joined();
    const ref = { tenantId: 'acme', kind: 'volcano', id: randomUUID() };
    fixture.controller.desire([desired(ref, 1n, {}), { ...desired(network()[0], 1n, {}), specJson: '{' }]);
    expect((await fixture.controller.reached(ref.id, PHASE_FAILED, 1n)).failure?.code).toBe('unknown_kind');
  });

  test('after a restart the machines run on untouched; what nobody mentions is told and left', async () => {
    const first = await fixture.setUp();
    await fixture.joined();
    const [netRef, netSpec] = network();
    const [vmRef, vmSpec] = instance(netRef);
    fixture.controller.desire([desired(netRef, 1n, netSpec), desired(vmRef, 1n, vmSpec)]);
    await fixture.controller.reached(vmRef.id, PHASE_READY, 1n);
    await first.stop();
    fixture.controller.received.length = 0;
    fixture.controller.snapshot = [desired(netRef, 1n, netSpec)];
    await fixture.start();
    await fixture.controller.reached(netRef.id, PHASE_READY, 1n);
    const { inventory } = fixture.controller.all('hello').at(-1)!;
    expect(inventory.map(({ ref }) => ref?.id).sort()).toEqual([netRef.id, vmRef.id].sort());
    fixture.controller.desire([desired(vmRef, 1n, vmSpec)]);
    await fixture.controller.reached(vmRef.id, PHASE_READY, 1n);
    expect(await fixture.boots(vmRef)).toBe(1);
  });

  test('a guest that shuts itself down is told and not started again; what vanished is made again', async () => {
    const { driver } = await fixture.setUp();
    await fixture.joined();
    const [netRef, netSpec] = network();
    const [vmRef, vmSpec] = instance(netRef);
    fixture.controller.desire([desired(netRef, 1n, netSpec), desired(vmRef, 1n, vmSpec)]);
    await fixture.controller.reached(vmRef.id, PHASE_READY, 1n);
    await fixture.inject({ operation: 'shutdown', match: 'web', times: 1 });
    await fixture.controller.until('stopped', () => fixture.controller.told(vmRef.id)?.statusJson.includes('stopped'));
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await fixture.boots(vmRef)).toBe(1);
    const capability = driver().capabilities.find(({ kind }) => kind === 'instance')!;
    await capability.remove(vmRef, new AbortController().signal);
    await fixture.controller.until('booted again', () =>
      fixture.controller.told(vmRef.id)?.statusJson.includes('running'),
    );
  });
});
