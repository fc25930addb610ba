/** The simulated machine keeps the contract that the real drivers keep, and strikes where a test asks it to. */
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import {
  type Capability,
  type DiskSpec,
  type DiskStatus,
  type DriverContext,
  type Found,
  type InstanceSpec,
  type InstanceStatus,
  type NetworkSpec,
  noMigration,
  type Ref,
  type SnapshotSpec,
  type SnapshotStatus,
} from '#libs/drivers/contract';
import { createSimDriver, type SimDriver, type SimFault } from './index.js';

const never = new AbortController().signal;
const networkRef: Ref = { tenantId: 'acme', kind: 'network', id: '0193-n' };
const ref: Ref = { tenantId: 'acme', kind: 'instance', id: '0193-i' };
const diskRef: Ref = { tenantId: 'acme', kind: 'disk', id: '0193-d' };
const snapshotRef: Ref = { tenantId: 'acme', kind: 'snapshot', id: '0193-s' };
const lease = { ip: '10.0.0.5', mac: '02:00:00:00:00:05', hostname: 'web.acme' };
const networkSpec = { subnet: '10.0.0.0/24', leases: [lease] } as unknown as NetworkSpec;
const spec: InstanceSpec = {
  name: 'web-1',
  vcpus: 1,
  memoryMiB: 64,
  disks: [{ diskId: diskRef.id, slot: 0, bootOrder: 1 }],
  interfaces: [{ networkId: networkRef.id, mac: lease.mac, ip: lease.ip, ip6: null }],
  powerState: 'running',
  restartPolicy: 'stay',
  guest: { hostname: 'web-1', tags: {}, userData: null, sshKeys: [] },
};
const diskSpec: DiskSpec = {
  sizeBytes: 2048,
  image: { sha256: 'a'.repeat(64), format: 'raw', sizeBytes: 1, virtualSizeBytes: 1024 },
  snapshot: null,
};

let stateDir: string;
let driver: SimDriver;
let networks: Capability<NetworkSpec, unknown>;
let disks: Capability<DiskSpec, DiskStatus>;
let snapshots: Capability<SnapshotSpec, SnapshotStatus>;
let instances: Capability<InstanceSpec, InstanceStatus>;
let fetched: string[];
let exported: { operationId: string; content: Buffer }[];

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
  exported = [];
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const images: DriverContext['images'] = {
    path: async ({ sha256 }) => {
      fetched.push(sha256);
      return '';
    },
  };
  const content: DriverContext['content'] = {
    async put(operationId, path) {
      const bytes = await readFile(path);
      exported.push({ operationId, content: bytes });
      return { sha256: createHash('sha256').update(bytes).digest('hex'), sizeBytes: (await stat(path)).size };
    },
  };
  const migration = noMigration;
  const context: DriverContext = {
    ...{ installation: '11111111', stateDir, images, content, metadataSocket: null, migration, log },
  };
  driver = await createSimDriver(context);
  const kind = <C>(name: string) => driver.capabilities.find((capability) => capability.kind === name) as C;
  networks = kind('network');
  disks = kind('disk');
  snapshots = kind('snapshot');
  instances = kind('instance');
}

async function inject(...faults: SimFault[]): Promise<void> {
  await writeFile(join(stateDir, 'sim-faults.json'), JSON.stringify(faults));
}

/** The machine's network and disk. */
async function furnish(): Promise<void> {
  await networks.apply(networkRef, networkSpec, never);
  await disks.apply(diskRef, diskSpec, never);
}

async function readConsole(tailBytes = 1e6): Promise<string> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of instances.consoleLog!(ref, tailBytes)) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

test('apply and remove are idempotent, and a restart finds everything running', async () => {
  await expect(instances.apply(ref, spec, never)).rejects.toMatchObject({ code: 'network_missing', permanent: false });
  await networks.apply(networkRef, networkSpec, never);
  await expect(instances.apply(ref, spec, never)).rejects.toMatchObject({ code: 'disk_missing', permanent: false });
  await disks.apply(diskRef, diskSpec, never);
  await disks.apply(diskRef, diskSpec, never);
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
  await furnish();
  await instances.apply(ref, spec, never);
  expect(await instances.apply(ref, { ...spec, powerState: 'stopped' }, never)).toEqual({ powerState: 'stopped' });
  await expect(instances.operate!(ref, 'reboot', {}, never)).rejects.toMatchObject({ code: 'not_running' });
  await instances.apply(ref, spec, never);
  await instances.operate!(ref, 'reset', {}, never);
  expect((await readConsole()).match(/boot \d of web-1/g)).toEqual([
    'boot 1 of web-1',
    'boot 2 of web-1',
    'boot 3 of web-1',
  ]);
  expect(await readConsole(7)).toBe('ready\r\n');
  await expect(instances.operate!(ref, 'explode', {}, never)).rejects.toMatchObject({ code: 'unknown_verb' });
});

test('a guest that shuts itself down is seen by its watchers', async () => {
  await furnish();
  await instances.apply(ref, spec, never);
  const seen: Found<InstanceStatus>[] = [];
  const end = instances.watch!((found) => seen.push(found));
  await inject({ operation: 'shutdown', match: 'web-?', times: 1 });
  await expect.poll(() => seen).toEqual([{ ref, status: { powerState: 'stopped' } }]);
  end();
});

test('a disk grows and never shrinks, goes when nobody has it, and is of one machine', async () => {
  await furnish();
  await expect(disks.apply(diskRef, { ...diskSpec, sizeBytes: 1024 }, never)).rejects.toMatchObject({
    code: 'invalid_spec',
    permanent: true,
  });
  expect(await disks.apply(diskRef, { ...diskSpec, sizeBytes: 4096 }, never)).toEqual({ sizeBytes: 4096 });
  await instances.apply(ref, spec, never);
  await expect(instances.apply({ ...ref, id: 'other' }, spec, never)).rejects.toMatchObject({ code: 'in_use' });
  await expect(disks.remove(diskRef, never)).rejects.toMatchObject({ code: 'in_use', permanent: false });
  expect(await disks.imagesInUse!()).toEqual(new Set(['a'.repeat(64)]));
  await instances.apply(ref, { ...spec, disks: [] }, never);
  await disks.remove(diskRef, never);
  await disks.remove(diskRef, never);
  await restart();
  expect(await disks.inventory()).toEqual([]);
});

test('a snapshot is made once, copied, restored and exported', async () => {
  await furnish();
  await instances.apply(ref, spec, never);
  const spec1 = { diskId: diskRef.id };
  expect(await snapshots.apply(snapshotRef, spec1, never)).toEqual({ sizeBytes: 65_536, virtualSizeBytes: 2048 });
  await disks.apply(diskRef, { ...diskSpec, sizeBytes: 4096 }, never);
  expect(await snapshots.apply(snapshotRef, spec1, never)).toMatchObject({ virtualSizeBytes: 2048 });
  const copyRef = { ...diskRef, id: 'copy' };
  const copySpec = { sizeBytes: 2048, image: null, snapshot: { diskId: diskRef.id, snapshotId: snapshotRef.id } };
  await disks.apply(copyRef, copySpec, never);
  await expect(
    disks.apply({ ...diskRef, id: 'x' }, { ...copySpec, snapshot: { diskId: diskRef.id, snapshotId: 'none' } }, never),
  ).rejects.toMatchObject({ code: 'snapshot_missing', permanent: false });
  await expect(snapshots.operate!(snapshotRef, 'restore', {}, never)).rejects.toMatchObject({ code: 'in_use' });
  await instances.apply(ref, { ...spec, powerState: 'stopped' }, never);
  expect(await snapshots.operate!(snapshotRef, 'restore', {}, never)).toBeUndefined();
  const [bytes] = [await snapshots.operate!(snapshotRef, 'export', { operationId: 'op-1' }, never)] as {
    sha256: string;
    sizeBytes: number;
  }[];
  expect(bytes).toMatchObject({ virtualSizeBytes: 2048, format: 'qcow2' });
  expect(exported).toHaveLength(1);
  expect(exported[0]!.content.toString('latin1')).toContain(`image:${'a'.repeat(64)}\nexport:${snapshotRef.id}`);
  expect((await readdir(stateDir)).filter((name) => name.startsWith('export'))).toEqual([]);
  await expect(disks.remove(diskRef, never)).rejects.toMatchObject({ code: 'in_use' });
  await snapshots.remove(snapshotRef, never);
  await snapshots.remove(snapshotRef, never);
  await restart();
  expect(await disks.inventory()).toHaveLength(2);
  await expect(snapshots.operate!(snapshotRef, 'restore', {}, never)).rejects.toMatchObject({ code: 'not_found' });
});

test('a console echoes, answers, and ends with its machine', async () => {
  await furnish();
  await instances.apply(ref, spec, never);
  const line = await instances.console!(ref);
  await expect(instances.console!(ref)).rejects.toMatchObject({ code: 'console_busy' });
  await line.write(Buffer.from('hostname\recho a  b\nfly\rpoweroff\r'));
  let text = '';
  for await (const data of line.output) text += Buffer.from(data).toString();
  expect(text).toBe(
    '\r\nsim# hostname\r\nweb-1\r\nsim# echo a  b\r\na b\r\nsim# fly\r\nsh: fly: not found\r\nsim# poweroff\r\n',
  );
  expect(await instances.inventory()).toMatchObject([{ status: { powerState: 'stopped' } }]);
  await expect(instances.console!(ref)).rejects.toMatchObject({ code: 'not_running' });
});

test('what a machine uses is told, and that it is off', async () => {
  await furnish();
  await instances.apply(ref, spec, never);
  const names = async () => (await instances.metrics!())[0]!.metrics.map(({ name }) => name);
  expect(await names()).toEqual([
    'up',
    'cpu_seconds_total',
    'memory_bytes',
    'disk_read_bytes_total',
    'disk_written_bytes_total',
    'network_received_bytes_total',
    'network_sent_bytes_total',
  ]);
  await instances.apply(ref, { ...spec, powerState: 'stopped' }, never);
  expect(await instances.metrics!()).toEqual([{ ref, metrics: [{ name: 'up', type: 'gauge', value: 0 }] }]);
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
