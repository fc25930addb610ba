/** The agent with the sim driver against a controller over real mutual TLS. */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { RhyzomeError } from '#libs/core';
import type { DriverLog, InstanceSpec, NetworkSpec, Ref } from '#libs/drivers/contract';
import { createSimDriver, type SimDriver, type SimFault } from '#libs/drivers/sim';
import { DeedOutcome, Phase } from '#libs/rpc';
import { type AgentOptions, startAgent } from './agent.js';
import { desired, FakeController, makeTestPki, type TestPki } from './testing/index.js';

const { PHASE_READY, PHASE_ABSENT, PHASE_FAILED, PHASE_PROGRESSING } = Phase;
let pki: TestPki;
let controller: FakeController;
let stateDir: string;
const opened: (() => Promise<unknown>)[] = [];
const image = randomBytes(5500);

beforeAll(async () => {
  pki = await makeTestPki(await mkdtemp(join(tmpdir(), 'rhyzome-agent-')));
});
afterAll(() => rm(pki.dir, { recursive: true }));
afterEach(async () => {
  for (const close of opened.splice(0).reverse()) await close();
});

async function setUp(overrides: Partial<AgentOptions> = {}) {
  controller = await FakeController.start(pki);
  opened.push(() => controller.stop());
  controller.images.set(sha256Of(image), image);
  stateDir = await mkdtemp(join(pki.dir, 'state-'));
  return start(overrides);
}

async function start(overrides: Partial<AgentOptions> = {}) {
  const errors: string[] = [];
  const quiet = () => {};
  const log: DriverLog = {
    debug: quiet,
    info: quiet,
    warn: quiet,
    error: (fields, message) => errors.push(`${message} ${JSON.stringify(fields)}`),
  };
  let driver: SimDriver | undefined;
  const agent = await startAgent({
    controller: controller.address,
    stateDir,
    labels: { rack: '7' },
    version: '0.0.0',
    credentials: pki.node,
    createDriver: async (ctx) => {
      driver = await createSimDriver(ctx);
      return driver;
    },
    log,
    timing: {
      retry: { firstMs: 50, mostMs: 200 },
      recheckMs: 200,
      refusedMs: 300,
      reconnect: { firstMs: 20, mostMs: 200 },
    },
    ...overrides,
  });
  let stopped: Promise<void> | undefined;
  const stop = () => {
    stopped ??= agent.stop();
    return stopped;
  };
  opened.push(stop);
  return { stop, errors, driver: () => driver! };
}

function sha256Of(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

const lease = { ip: '10.0.0.5', mac: '02:00:00:00:00:05', hostname: 'web' };

function network(leases = [lease]): [Ref, NetworkSpec] {
  const spec: NetworkSpec = {
    subnet: '10.0.0.0/24',
    gateway: '10.0.0.1',
    gatewayMac: '02:00:00:00:00:01',
    dns: [],
    domain: null,
    mtu: 1450,
    leases,
  };
  return [{ tenantId: 'acme', kind: 'network', id: randomUUID() }, spec];
}

function instance(networkRef: Ref, content = image, name = 'web'): [Ref, InstanceSpec] {
  const spec: InstanceSpec = {
    name,
    vcpus: 1,
    memoryMiB: 64,
    diskGiB: null,
    image: { sha256: sha256Of(content), format: 'qcow2', sizeBytes: content.length, virtualSizeBytes: 1 << 20 },
    interfaces: [{ networkId: networkRef.id, mac: lease.mac, ip: lease.ip }],
    powerState: 'running',
    restartPolicy: 'stay',
  };
  return [{ tenantId: 'acme', kind: 'instance', id: randomUUID() }, spec];
}

async function inject(...faults: SimFault[]): Promise<void> {
  await writeFile(join(stateDir, 'sim-faults.json'), JSON.stringify(faults));
}

async function boots(ref: Ref): Promise<number> {
  const { instances } = JSON.parse(await readFile(join(stateDir, 'sim-state.json'), 'utf8'));
  return new Map<string, { boots: number }>(instances).get(ref.id)?.boots ?? 0;
}

function joined(): Promise<unknown> {
  return controller.until('a second hello', () => controller.all('hello').some(({ kinds }) => kinds.length > 0));
}

describe('connecting', () => {
  test('joins, says hello again with what it has, beats its heart', async () => {
    await setUp();
    await joined();
    const [first, second] = controller.all('hello');
    expect(first).toMatchObject({ installationId: '', kinds: [] });
    expect(second).toMatchObject({
      installationId: controller.installationId,
      driver: 'sim',
      kinds: ['network', 'instance'],
      labels: { rack: '7' },
      capacity: { vcpus: 4096 },
    });
    expect(controller.peers).toEqual(['node-1', 'node-1']);
    await controller.until('heartbeats', () => controller.all('heartbeat').length > 2);
    expect(controller.all('hello')).toHaveLength(2);
  });

  test('comes back by itself when the controller was away, and tells what it has', async () => {
    await setUp();
    await joined();
    const [ref, spec] = network();
    controller.snapshot = [desired(ref, 1n, spec)];
    controller.desire(controller.snapshot);
    await controller.reached(ref.id, PHASE_READY, 1n);
    await controller.stop();
    controller.received.length = 0;
    await controller.listen();
    await joined();
    expect(controller.all('hello').at(-1)!.inventory).toMatchObject([{ ref, revision: 1n, phase: PHASE_READY }]);
    await controller.reached(ref.id, PHASE_READY, 1n);
  });

  test('leaves a stream that is only half open', async () => {
    await setUp();
    controller.acknowledges = false;
    await controller.until('hellos again', () => controller.all('hello').length >= 4);
  });

  test('obeys no controller of another installation, says so, and comes back when it is the right one', async () => {
    const first = await setUp();
    await joined();
    const [ref, spec] = network();
    controller.desire([desired(ref, 1n, spec)]);
    await controller.reached(ref.id, PHASE_READY, 1n);
    await first.stop();
    const mine = controller.installationId;
    controller.received.length = 0;
    controller.installationId = '99999999-2222-4333-8444-555555555555';
    controller.snapshot = [desired(ref, 2n, undefined)];
    const { errors } = await start();
    await controller.until('a second try', () => controller.all('hello').length >= 2);
    expect(errors[0]).toContain(mine);
    expect(controller.all('report')).toEqual([]);
    controller.installationId = mine;
    await controller.reached(ref.id, PHASE_ABSENT, 2n);
  });

  test('says what a controller that lets it not in says, and asks more rarely', async () => {
    const refusing = { refusedMs: 60_000 };
    const { errors } = await setUp({ timing: refusing });
    await joined();
    controller.refusal = new RhyzomeError('forbidden', 'This machine belongs to another installation of Rhyzome.');
    await controller.stop();
    await controller.listen();
    await expect.poll(() => errors).toHaveLength(1);
    expect(errors[0]).toContain('This machine belongs to another installation');
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(errors).toHaveLength(1);
  });

  test('two agents on one state directory: the second is told', async () => {
    await setUp();
    await expect(start()).rejects.toThrow('Another agent runs');
  });
});

describe('making it so', () => {
  test('network, then instance, with its image; away in reverse, in one message each', async () => {
    await setUp();
    await joined();
    const [netRef, netSpec] = network();
    const [vmRef, vmSpec] = instance(netRef);
    controller.desire([desired(vmRef, 1n, vmSpec), desired(netRef, 1n, netSpec)]);
    const ready = await controller.reached(vmRef.id, PHASE_READY, 1n);
    expect(JSON.parse(ready.statusJson)).toEqual({ powerState: 'running' });
    expect(
      controller
        .all('report')
        .flatMap(({ items }) => items)
        .filter(({ failure }) => failure),
    ).toEqual([]);
    expect(await readFile(join(stateDir, 'images', sha256Of(image)))).toEqual(image);
    controller.desire([desired(netRef, 2n, undefined), desired(vmRef, 2n, undefined)]);
    await controller.reached(netRef.id, PHASE_ABSENT, 2n);
    expect(
      controller
        .all('report')
        .flatMap(({ items }) => items)
        .filter(({ failure }) => failure),
    ).toEqual([]);
  });

  test('tries again after a failure that may pass, gives up on one that cannot, and neither keeps others', async () => {
    await setUp();
    await joined();
    const [netRef, netSpec] = network();
    const [good, goodSpec] = instance(netRef);
    const [flaky, flakySpec] = instance(netRef, image, 'flaky');
    const [broken, brokenSpec] = instance(netRef, image, 'broken');
    await inject(
      { kind: 'instance', operation: 'apply', match: 'fl*', times: 3, code: 'hypervisor_refused', message: 'Not now.' },
      { operation: 'apply', match: broken.id, code: 'disk_full', permanent: true },
    );
    controller.desire([
      desired(broken, 1n, brokenSpec),
      desired(flaky, 1n, flakySpec),
      desired(good, 1n, goodSpec),
      desired(netRef, 1n, netSpec),
    ]);
    await controller.reached(good.id, PHASE_READY, 1n);
    expect((await controller.reached(broken.id, PHASE_FAILED, 1n)).failure?.code).toBe('disk_full');
    await controller.reached(flaky.id, PHASE_READY, 1n);
    const told = controller.all('report').flatMap(({ items }) => items);
    expect(told.find(({ phase, ref }) => phase === PHASE_PROGRESSING && ref?.id === flaky.id)?.failure).toEqual({
      code: 'hypervisor_refused',
      message: 'Not now.',
    });
  });

  test('a newer revision takes the place of a try under way; an older one that comes late changes nothing', async () => {
    await setUp();
    await joined();
    const [ref, spec] = network();
    await inject({ kind: 'network', operation: 'apply', times: 1, delayMs: 60_000 });
    controller.desire([desired(ref, 1n, spec)]);
    await new Promise((resolve) => setTimeout(resolve, 100));
    controller.desire([desired(ref, 2n, network([])[1])]);
    await controller.reached(ref.id, PHASE_READY, 2n);
    controller.desire([desired(ref, 1n, undefined)]);
    controller.desire([desired(ref, 2n, network([])[1])]);
    await controller.until('told again', () => controller.all('report').length >= 2);
    expect(controller.told(ref.id)).toMatchObject({ phase: PHASE_READY, revision: 2n });
  });

  test('what this node cannot do is said', async () => {
    await setUp();
    await joined();
    const ref = { tenantId: 'acme', kind: 'volcano', id: randomUUID() };
    controller.desire([desired(ref, 1n, {}), { ...desired(network()[0], 1n, {}), specJson: '{' }]);
    expect((await controller.reached(ref.id, PHASE_FAILED, 1n)).failure?.code).toBe('unknown_kind');
  });

  test('after a restart the machines run on untouched; what nobody mentions is told and left', async () => {
    const first = await setUp();
    await joined();
    const [netRef, netSpec] = network();
    const [vmRef, vmSpec] = instance(netRef);
    controller.desire([desired(netRef, 1n, netSpec), desired(vmRef, 1n, vmSpec)]);
    await controller.reached(vmRef.id, PHASE_READY, 1n);
    await first.stop();
    controller.received.length = 0;
    controller.snapshot = [desired(netRef, 1n, netSpec)];
    await start();
    await controller.reached(netRef.id, PHASE_READY, 1n);
    const { inventory } = controller.all('hello').at(-1)!;
    expect(inventory.map(({ ref }) => ref?.id).sort()).toEqual([netRef.id, vmRef.id].sort());
    controller.desire([desired(vmRef, 1n, vmSpec)]);
    await controller.reached(vmRef.id, PHASE_READY, 1n);
    expect(await boots(vmRef)).toBe(1);
  });

  test('a guest that shuts itself down is told and not started again; what vanished is made again', async () => {
    const { driver } = await setUp();
    await joined();
    const [netRef, netSpec] = network();
    const [vmRef, vmSpec] = instance(netRef);
    controller.desire([desired(netRef, 1n, netSpec), desired(vmRef, 1n, vmSpec)]);
    await controller.reached(vmRef.id, PHASE_READY, 1n);
    await inject({ operation: 'shutdown', match: 'web', times: 1 });
    await controller.until('stopped', () => controller.told(vmRef.id)?.statusJson.includes('stopped'));
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await boots(vmRef)).toBe(1);
    const capability = driver().capabilities.find(({ kind }) => kind === 'instance')!;
    await capability.remove(vmRef, new AbortController().signal);
    await controller.until('booted again', () => controller.told(vmRef.id)?.statusJson.includes('running'));
  });
});

describe('images', () => {
  test('wrong content is thrown away and never used', async () => {
    await setUp();
    await joined();
    const right = randomBytes(3000);
    controller.images.set(sha256Of(right), randomBytes(3000));
    const [netRef, netSpec] = network();
    const [vmRef, vmSpec] = instance(netRef, right);
    controller.desire([desired(netRef, 1n, netSpec), desired(vmRef, 1n, vmSpec)]);
    const told = await controller.reached(vmRef.id, PHASE_PROGRESSING, 1n);
    expect(told.failure?.code).toBe('image_unavailable');
    controller.images.set(sha256Of(right), right);
    await controller.reached(vmRef.id, PHASE_READY, 1n);
    expect(await readFile(join(stateDir, 'images', sha256Of(right)))).toEqual(right);
  });

  test('a fetch that breaks off goes on where it was; two instances share one fetch', async () => {
    await setUp();
    await joined();
    controller.breakAfter = 3000;
    const [netRef, netSpec] = network();
    const [a, aSpec] = instance(netRef);
    const [b, bSpec] = instance(netRef, image, 'b');
    controller.desire([desired(netRef, 1n, netSpec), desired(a, 1n, aSpec), desired(b, 1n, bSpec)]);
    await Promise.all([controller.reached(a.id, PHASE_READY, 1n), controller.reached(b.id, PHASE_READY, 1n)]);
    expect(controller.fetches.map(({ offset }) => offset)).toEqual([0n, 3000n]);
  });
});

describe('deeds and consoles', () => {
  async function machine(): Promise<Ref> {
    const [netRef, netSpec] = network();
    const [vmRef, vmSpec] = instance(netRef);
    controller.desire([desired(netRef, 1n, netSpec), desired(vmRef, 1n, vmSpec)]);
    await controller.reached(vmRef.id, PHASE_READY, 1n);
    return vmRef;
  }

  function deed(ref: Ref, operationId: string, verb = 'reboot') {
    controller.send({ $case: 'deed', value: { operationId, ref, verb, argumentsJson: '', repeatable: false } });
    const before = controller.all('deedResult').length;
    return controller.until(`outcome of ${operationId}`, () => controller.all('deedResult')[before]);
  }

  test('a reboot happens once, however often it is asked for, also after a restart', async () => {
    const first = await setUp();
    await joined();
    const ref = await machine();
    expect((await deed(ref, 'op-1')).outcome).toBe(DeedOutcome.DEED_OUTCOME_DONE);
    expect((await deed(ref, 'op-1')).outcome).toBe(DeedOutcome.DEED_OUTCOME_DONE);
    expect(await boots(ref)).toBe(2);
    await first.stop();
    controller.received.length = 0;
    await start();
    await joined();
    expect((await deed(ref, 'op-1')).outcome).toBe(DeedOutcome.DEED_OUTCOME_DONE);
    expect(await boots(ref)).toBe(2);
    expect((await deed(ref, 'op-2', 'explode')).failure?.code).toBe('unknown_verb');
  });

  test('the console log comes whole or by its end, and an unknown machine is an error of its own', async () => {
    await setUp();
    await joined();
    const ref = await machine();
    const read = async (relayId: string, from: Ref, tailBytes = 0n) => {
      controller.send({ $case: 'relayRequest', value: { relayId, ref: from, channel: 'console-log', tailBytes } });
      const mine = () => controller.all('relayChunk').filter((chunk) => chunk.relayId === relayId);
      await controller.until('the end of the log', () => mine().some(({ end }) => end));
      return { text: Buffer.concat(mine().map(({ data }) => data)).toString(), failure: mine().at(-1)?.failure };
    };
    const whole = await read('r1', ref);
    expect(whole.text).toContain('address=10.0.0.5\r\nhostname=web\r\n');
    expect((await read('r2', ref, 7n)).text).toBe(whole.text.slice(-7));
    expect((await read('r3', { ...ref, id: randomUUID() })).failure?.code).toBe('not_found');
  });
});
