/** The simulated machine keeps the contract that the real drivers keep, and strikes where a test asks it to. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type {
  Capability,
  DriverContext,
  Found,
  InstanceSpec,
  InstanceStatus,
  NetworkSpec,
  Ref,
} from '#libs/drivers/contract';
import { createSimDriver, type SimDriver, type SimFault } from './index.js';

const never = new AbortController().signal;
const networkRef: Ref = { tenantId: 'acme', kind: 'network', id: '0193-n' };
const ref: Ref = { tenantId: 'acme', kind: 'instance', id: '0193-i' };
const lease = { ip: '10.0.0.5', mac: '02:00:00:00:00:05', hostname: 'web.acme' };
const networkSpec = { subnet: '10.0.0.0/24', leases: [lease] } as unknown as NetworkSpec;
const spec: InstanceSpec = {
  name: 'web-1',
  vcpus: 1,
  memoryMiB: 64,
  diskGiB: null,
  image: { sha256: 'a'.repeat(64), format: 'raw', sizeBytes: 1, virtualSizeBytes: 1 },
  interfaces: [{ networkId: networkRef.id, mac: lease.mac, ip: lease.ip }],
  powerState: 'running',
  restartPolicy: 'stay',
};

let stateDir: string;
let driver: SimDriver;
let networks: Capability<NetworkSpec, unknown>;
let instances: Capability<InstanceSpec, InstanceStatus>;
let fetched: string[];

beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'rhyzome-sim-'));
  await open();
});
afterEach(async () => {
  await driver.close();
  await rm(stateDir, { recursive: true });
});

async function restart(): Promise<void> {
  await driver.close();
  await open();
}

async function open(): Promise<void> {
  fetched = [];
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const images: DriverContext['images'] = {
    path: async ({ sha256 }) => {
      fetched.push(sha256);
      return '';
    },
  };
  driver = await createSimDriver({ installation: '11111111', stateDir, images, log });
  [networks, instances] = driver.capabilities as [typeof networks, typeof instances];
}

async function inject(...faults: SimFault[]): Promise<void> {
  await writeFile(join(stateDir, 'sim-faults.json'), JSON.stringify(faults));
}

async function readConsole(tailBytes = 1e6): Promise<string> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of instances.consoleLog!(ref, tailBytes)) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

test('apply and remove are idempotent, and a restart finds everything running', async () => {
  await expect(instances.apply(ref, spec, never)).rejects.toMatchObject({ code: 'network_missing', permanent: false });
  await networks.apply(networkRef, networkSpec, never);
  expect(await instances.apply(ref, spec, never)).toEqual({ powerState: 'running' });
  expect(await instances.apply(ref, spec, never)).toEqual({ powerState: 'running' });
  expect(fetched).toHaveLength(1);
  expect((await readConsole()).match(/address=10\.0\.0\.5\r\nhostname=web\.acme/g)).toHaveLength(1);
  await restart();
  expect(await instances.inventory()).toEqual([{ ref, status: { powerState: 'running' } }]);
  await expect(networks.remove(networkRef, never)).rejects.toMatchObject({ code: 'in_use' });
  await instances.remove(ref, never);
  await instances.remove(ref, never);
  await networks.remove(networkRef, never);
  await networks.remove(networkRef, never);
  await restart();
  expect([...(await instances.inventory()), ...(await networks.inventory())]).toEqual([]);
});

test('stop, start and reboot show in status and console', async () => {
  await networks.apply(networkRef, networkSpec, never);
  await instances.apply(ref, spec, never);
  expect(await instances.apply(ref, { ...spec, powerState: 'stopped' }, never)).toEqual({ powerState: 'stopped' });
  await expect(instances.operate!(ref, 'reboot', {}, never)).rejects.toMatchObject({ code: 'not_running' });
  await instances.apply(ref, spec, never);
  await instances.operate!(ref, 'reboot', {}, never);
  expect((await readConsole()).match(/boot \d of web-1/g)).toEqual([
    'boot 1 of web-1',
    'boot 2 of web-1',
    'boot 3 of web-1',
  ]);
  expect(await readConsole(7)).toBe('ready\r\n');
  await expect(instances.operate!(ref, 'explode', {}, never)).rejects.toMatchObject({ code: 'unknown_verb' });
});

test('a guest that shuts itself down is seen by its watchers', async () => {
  await networks.apply(networkRef, networkSpec, never);
  await instances.apply(ref, spec, never);
  const seen: Found<InstanceStatus>[] = [];
  const end = instances.watch!((found) => seen.push(found));
  await inject({ operation: 'shutdown', match: 'web-?', times: 1 });
  await expect.poll(() => seen).toEqual([{ ref, status: { powerState: 'stopped' } }]);
  end();
});

test('faults strike where and as often as they say', async () => {
  await inject(
    { kind: 'network', operation: 'apply', match: '0193-*', times: 2, code: 'no_luck', message: 'Twice.' },
    { operation: 'remove', code: 'never', permanent: true },
    { operation: 'inventory', times: 1, code: 'away' },
  );
  for (let time = 0; time < 2; time += 1) {
    await expect(networks.apply(networkRef, networkSpec, never)).rejects.toMatchObject({
      code: 'no_luck',
      message: 'Twice.',
      permanent: false,
    });
  }
  await networks.apply(networkRef, networkSpec, never);
  await expect(networks.remove(networkRef, never)).rejects.toMatchObject({ code: 'never', permanent: true });
  await expect(networks.inventory()).rejects.toMatchObject({ code: 'away' });
  expect(await networks.inventory()).toHaveLength(1);
  await inject({ operation: 'apply', delayMs: 60_000 });
  await expect(networks.apply(networkRef, networkSpec, AbortSignal.timeout(50))).rejects.toThrow();
});

test('writes that happen together are all kept', async () => {
  const refs = Array.from({ length: 200 }, (_, n) => ({ ...networkRef, id: `n-${n}` }));
  await Promise.all(refs.map((one) => networks.apply(one, networkSpec, never)));
  await restart();
  expect(await networks.inventory()).toHaveLength(200);
});
