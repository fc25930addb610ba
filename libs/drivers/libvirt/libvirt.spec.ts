/** Instances on a real libvirt and QEMU, inside a host of namespaces, with the tiny image as guest. */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type {
  Capability,
  Driver,
  DriverContext,
  Found,
  InstanceSpec,
  InstanceStatus,
  NetworkSpec,
  Ref,
} from '#libs/drivers/contract';
import { canHost, createRunner, type Host, machineState, startHost } from '#libs/drivers/host';
import { createLibvirtDriver, domainName } from '#libs/drivers/libvirt';
import { namespaceName } from '#libs/drivers/network';
import { canBuildTiny, ensureTinyImage } from '../../../tools/tiny-image/index.js';

const abilities = [await canHost(), canBuildTiny()];
const missing = abilities.flatMap((ability) => (ability.ok ? [] : [ability.reason]));
if (missing.length > 0) console.warn(`skipped: instances on libvirt: ${missing.join('; ')}`);
const never = new AbortController().signal;
const cache = resolve('.rhyzome/cache');

describe.skipIf(missing.length > 0)('the libvirt driver', () => {
  const installation = randomBytes(4).toString('hex');
  const network: Ref = { tenantId: 'acme', kind: 'network', id: randomUUID() };
  const instance: Ref = { tenantId: 'acme', kind: 'instance', id: randomUUID() };
  const mac = '52:54:00:0a:00:0a';
  const networkSpec: NetworkSpec = {
    subnet: '10.77.1.0/24',
    gateway: '10.77.1.1',
    gatewayMac: '52:54:00:77:00:01',
    dns: [],
    domain: null,
    mtu: 1450,
    leases: [{ ip: '10.77.1.10', mac, hostname: 'web-1' }],
  };
  let dir: string;
  let host: Host;
  let driver: Driver;
  let context: DriverContext;
  let spec: InstanceSpec;
  let links: string;
  let before: Record<string, string>;
  const log = { info() {}, warn() {}, error() {}, debug() {} };

  const open = () =>
    createLibvirtDriver(context, {
      enter: host.command([]),
      uri: host.libvirtUri,
      cacheDir: cache,
      probeImage: join(dir, 'tiny'),
      stopGraceMs: 15_000,
    });
  const of = <S, T>(kind: string) => driver.capabilities.find((c) => c.kind === kind) as Capability<S, T>;
  const instances = () => of<InstanceSpec, InstanceStatus>('instance');
  const networks = () => of<NetworkSpec, object>('network');
  const consoleText = async (tail = 100_000) => {
    let text = '';
    for await (const chunk of instances().consoleLog?.(instance, tail) ?? []) text += Buffer.from(chunk).toString();
    return text;
  };
  const until = async (what: string, holds: () => Promise<boolean>, limitMs = 40_000) => {
    for (const end = Date.now() + limitMs; !(await holds()); await sleep(100)) {
      if (Date.now() > end) throw new Error(`${what} did not come about in ${limitMs} ms`);
    }
  };
  const boots = async () => (await consoleText()).split('tiny: ready').length - 1;
  const booted = (times: number) => until(`boot ${times}`, async () => (await boots()) >= times);
  const request = 'exec 3<>/dev/tcp/10.77.1.10/80; printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3';
  const http = () =>
    host.exec(['ip', 'netns', 'exec', namespaceName(installation, network.id), 'timeout', '5', 'bash', '-c', request]);
  const emulator = () => host.exec(['sh', '-c', `cat /run/libvirt/qemu/${domainName(installation, instance.id)}.pid`]);

  beforeAll(async () => {
    before = await machineState();
    const tiny = await ensureTinyImage(cache);
    dir = await mkdtemp(join(tmpdir(), 'rz-libvirt-'));
    host = await startHost({ dir: join(dir, 'host'), cacheDir: join(cache, 'libvirt'), hostname: 'rz-virt' });
    links = await host.exec(['ls', '/sys/class/net']);
    await createRunner().run(['cp', tiny, join(dir, 'tiny')]);
    const images = { path: () => Promise.resolve(join(dir, 'tiny')) };
    context = { installation, stateDir: join(dir, 'state'), images, log };
    await mkdir(context.stateDir, { mode: 0o700 });
    driver = await open();
    const sha256 = createHash('sha256')
      .update(await readFile(tiny))
      .digest('hex');
    spec = {
      name: 'web-1',
      vcpus: 1,
      memoryMiB: 128,
      diskGiB: 1,
      image: { sha256, format: 'qcow2', sizeBytes: (await stat(tiny)).size, virtualSizeBytes: 24 * 1024 ** 2 },
      interfaces: [{ networkId: network.id, mac, ip: '10.77.1.10' }],
      powerState: 'running',
      restartPolicy: 'stay',
    };
  }, 240_000);
  afterAll(async () => {
    await driver?.close();
    await host?.stop();
    if (dir) await rm(dir, { recursive: true, force: true });
    expect(await machineState()).toEqual(before);
  });

  it('waits for the network, then boots with its address', async () => {
    await expect(instances().apply(instance, spec, never)).rejects.toMatchObject({ code: 'network_missing' });
    await networks().apply(network, networkSpec, never);
    expect(await instances().apply(instance, spec, never)).toEqual({ powerState: 'running' });
    expect((await stat(context.stateDir)).mode & 0o777).toBe(0o711);
    await booted(1);
    expect(await consoleText()).toMatch(/address=10\.77\.1\.10\r?\nhostname=web-1/);
    expect(await consoleText(12)).toHaveLength(12);
    expect(await http()).toContain('web-1 10.77.1.10');
  }, 90_000);

  it('lets it run on when the agent starts anew', async () => {
    const pid = await emulator();
    await driver.close();
    driver = await open();
    expect(await instances().inventory()).toEqual([{ ref: instance, status: { powerState: 'running' } }]);
    await networks().apply(network, networkSpec, never);
    await instances().apply(instance, spec, never);
    expect(await emulator()).toBe(pid);
    expect(await http()).toContain('10.77.1.10');
  }, 30_000);

  it('says so when libvirt is away, and finds the machine running when it is back', async () => {
    const pid = await emulator();
    await host.exec(['sh', '-c', 'kill -9 $(cat /run/libvirt/libvirtd.pid)']);
    const unreachable = { code: 'hypervisor_unreachable', permanent: false };
    await expect(instances().apply(instance, spec, never)).rejects.toMatchObject(unreachable);
    await host.startLibvirt();
    expect(await instances().apply(instance, spec, never)).toEqual({ powerState: 'running' });
    expect(await emulator()).toBe(pid);
  }, 30_000);

  it('stops, starts and reboots it, and tells none of that as news', async () => {
    const news: Found<InstanceStatus>[] = [];
    const end = instances().watch?.((found) => news.push(found));
    const stopped = { ...spec, powerState: 'stopped' as const };
    expect(await instances().apply(instance, stopped, never)).toEqual({ powerState: 'stopped' });
    expect(await consoleText()).toContain('power button');
    expect(await instances().apply(instance, stopped, never)).toEqual({ powerState: 'stopped' });
    await instances().apply(instance, spec, never);
    await booted(2);
    await instances().operate?.(instance, 'reboot', {}, never);
    await booted(3);
    await expect(instances().operate?.(instance, 'explode', {}, never)).rejects.toMatchObject({ code: 'unknown_verb' });
    expect(news).toEqual([]);
    end?.();
  }, 90_000);

  it('tells within 5 s of a guest that shut down, also after its listener died', async () => {
    const news: Found<InstanceStatus>[] = [];
    const end = instances().watch?.((found) => news.push(found));
    await sleep(500);
    const listeners = await host.exec(['pgrep', '-f', 'virsh .*event --all']);
    for (const pid of listeners.trim().split('\n')) {
      const inside = await createRunner().run(['readlink', `/proc/${pid}/ns/uts`]);
      if (inside === (await createRunner().run(['readlink', `/proc/${host.pid}/ns/uts`]))) process.kill(Number(pid));
    }
    await sleep(1500);
    const domain = domainName(installation, instance.id);
    await host.exec(['virsh', '-c', host.libvirtUri, 'shutdown', domain]);
    await until('off', async () =>
      (await host.exec(['virsh', '-c', host.libvirtUri, 'domstate', domain])).includes('off'),
    );
    await until('news', async () => news.some(({ status }) => status.powerState === 'stopped'), 5000);
    expect(news).toEqual([{ ref: instance, status: { powerState: 'stopped' } }]);
    end?.();
    await instances().apply(instance, spec, never);
  }, 60_000);

  it('comes back after the restart of the machine, with its disk', async () => {
    const disk = join(context.stateDir, 'instance', instance.id, 'disk.qcow2');
    const { ino } = await stat(disk);
    const count = await boots();
    await driver.close();
    await host.stop();
    host = await startHost({ dir: join(dir, 'host'), cacheDir: join(cache, 'libvirt'), hostname: 'rz-virt' });
    driver = await open();
    expect(await instances().inventory()).toEqual([
      { ref: instance, status: { powerState: 'unknown' }, damaged: true },
    ]);
    expect(await networks().inventory()).toMatchObject([{ ref: network, damaged: true }]);
    await networks().apply(network, networkSpec, never);
    await instances().apply(instance, spec, never);
    await booted(count + 1);
    expect((await stat(disk)).ino).toBe(ino);
    expect(await http()).toContain('web-1 10.77.1.10');
  }, 90_000);

  it('leaves nothing behind', async () => {
    await instances().remove(instance, never);
    await instances().remove(instance, never);
    await networks().remove(network, never);
    expect(await instances().inventory()).toEqual([]);
    expect((await host.exec(['virsh', '-c', host.libvirtUri, 'list', '--all', '--name'])).trim()).toBe('');
    expect(await host.exec(['ls', '/sys/class/net'])).toBe(links);
    expect(await readdir(join(context.stateDir, 'instance'))).toEqual([]);
    expect(await readdir(join(context.stateDir, 'network'))).toEqual([]);
  }, 30_000);
});
