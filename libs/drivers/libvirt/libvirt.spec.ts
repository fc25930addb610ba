/** Instances on a real libvirt and QEMU, inside a host of namespaces, with the tiny image as guest. */
import { randomUUID } from 'node:crypto';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Found, InstanceSpec, InstanceStatus, Metric, NetworkSpec, Ref } from '#libs/drivers/contract';
import { createRunner, machineState } from '#libs/drivers/host';
import { domainName } from '#libs/drivers/libvirt';
import { namespaceName } from '#libs/drivers/network';
import { canLab, never, refTo, Shell, until, VirtLab } from './lab.js';

describe.skipIf(!(await canLab('instances on libvirt')))('the libvirt driver', () => {
  const network: Ref = { tenantId: 'acme', kind: 'network', id: randomUUID() };
  const instance: Ref = { tenantId: 'acme', kind: 'instance', id: randomUUID() };
  const disk = refTo('disk');
  const mac = '52:54:00:0a:00:0a';
  const networkSpec: NetworkSpec = {
    subnet: '10.77.1.0/24',
    gateway: '10.77.1.1',
    subnet6: null,
    gateway6: null,
    gatewayMac: '52:54:00:77:00:01',
    dns: [],
    domain: null,
    mtu: 1450,
    leases: [{ ip: '10.77.1.10', mac, hostname: 'web-1', ip6: null }],
    publicAddresses: [],
    forwards: [],
    firewall: [],
    wireguard: null,
  };
  let lab: VirtLab;
  let spec: InstanceSpec;
  let before: Record<string, string>;

  const consoleText = (tail?: number) => lab.consoleLog(instance, tail);
  const boots = async () => (await consoleText()).split('tiny: ready').length - 1;
  const booted = (times: number) => until(`boot ${times}`, async () => (await boots()) >= times);
  const request = 'exec 3<>/dev/tcp/10.77.1.10/80; printf "GET / HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3';
  const inNetwork = (...argv: string[]) =>
    lab.host.exec(['ip', 'netns', 'exec', namespaceName(lab.installation, network.id), 'timeout', '5', ...argv]);
  const http = () => inNetwork('bash', '-c', request);
  const domain = () => domainName(lab.installation, instance.id);
  const emulator = () => lab.host.exec(['sh', '-c', `cat /run/libvirt/qemu/${domain()}.pid`]);

  beforeAll(async () => {
    before = await machineState();
    lab = await VirtLab.open('rz-virt');
    spec = lab.spec([disk], {
      interfaces: [{ networkId: network.id, mac, ip: '10.77.1.10', ip6: null }],
      guest: {
        hostname: 'web-1',
        tags: {},
        userData: '#!/bin/sh\necho "told: $(hostname)"\n',
        sshKeys: ['ssh-ed25519 AAAA me'],
      },
    });
  }, 240_000);
  afterAll(async () => {
    await lab?.close();
    expect(await machineState()).toEqual(before);
  });

  it('waits for the network, then boots with its address', async () => {
    await lab.disks.apply(disk, { sizeBytes: 1024 ** 3, image: lab.image, snapshot: null }, never);
    await expect(lab.instances.apply(instance, spec, never)).rejects.toMatchObject({ code: 'network_missing' });
    await lab.networks.apply(network, networkSpec, never);
    expect(await lab.instances.apply(instance, spec, never)).toEqual({ powerState: 'running' });
    expect((await stat(lab.context.stateDir)).mode & 0o777).toBe(0o711);
    await booted(1);
    expect(await consoleText()).toMatch(/address=10\.77\.1\.10\r?\nhostname=web-1/);
    expect(await consoleText(12)).toHaveLength(12);
    expect(await http()).toContain('web-1 10.77.1.10');
  }, 240_000);

  it('tells the guest what it is by its seed', async () => {
    await until('the user data', async () => (await consoleText()).includes('told: web-1'));
    const shell = await Shell.open(lab, instance);
    expect(JSON.parse(await shell.run('cat /seed/meta-data'))).toEqual({
      'instance-id': instance.id,
      'local-hostname': 'web-1',
      'public-keys': ['ssh-ed25519 AAAA me'],
    });
    expect(JSON.parse(await shell.run('cat /seed/network-config'))).toMatchObject({ version: 2 });
    shell.close();
  }, 240_000);

  it('gives its console to one at a time, and again after that', async () => {
    const shell = await Shell.open(lab, instance);
    await expect(lab.instances.console?.(instance)).rejects.toMatchObject({ code: 'console_busy' });
    expect(await shell.run('hostname')).toBe('web-1');
    shell.close();
    await until('its end', () => shell.ended);
    const again = await Shell.open(lab, instance);
    expect(await again.run('echo again')).toBe('again');
    again.close();
    expect(await consoleText()).toContain('again');
    await expect(lab.instances.console?.(refTo('instance'))).rejects.toMatchObject({ code: 'not_found' });
  }, 240_000);

  it('measures what it uses', async () => {
    const samples = async () => {
      const all = (await lab.instances.metrics?.()) ?? [];
      expect(all.map(({ ref }) => ref)).toEqual([instance]);
      const metrics = all[0]?.metrics ?? [];
      return metrics;
    };
    const value = (metrics: Metric[], name: string) => metrics.find((metric) => metric.name === name)?.value ?? -1;
    const first = await samples();
    expect(value(first, 'up')).toBe(1);
    expect(value(first, 'cpu_seconds_total')).toBeGreaterThan(1);
    expect(value(first, 'memory_bytes')).toBeGreaterThan(32 * 1024 ** 2);
    expect(first.find(({ name }) => name === 'disk_read_bytes_total')).toMatchObject({ labels: { disk: disk.id } });
    expect(value(first, 'disk_read_bytes_total')).toBeGreaterThan(1024 ** 2);
    expect(first.filter(({ labels }) => labels?.interface === mac).map(({ name }) => name)).toEqual([
      'network_received_bytes_total',
      'network_sent_bytes_total',
    ]);
    // Mostly towards the guest.
    await inNetwork('bash', '-c', 'head -c 200000 /dev/zero > /dev/udp/10.77.1.10/9 || true');
    const second = await samples();
    const more = (name: string) => value(second, name) - value(first, name);
    expect(more('network_received_bytes_total')).toBeGreaterThan(more('network_sent_bytes_total'));
  }, 240_000);

  it('lets it run on when the agent starts anew', async () => {
    const pid = await emulator();
    await lab.driver.close();
    await lab.startDriver();
    expect(await lab.instances.inventory()).toEqual([{ ref: instance, status: { powerState: 'running' } }]);
    await lab.networks.apply(network, networkSpec, never);
    await lab.instances.apply(instance, spec, never);
    expect(await emulator()).toBe(pid);
    expect(await http()).toContain('10.77.1.10');
  }, 240_000);

  it('says so when libvirt is away, and finds the machine running when it is back', async () => {
    const pid = await emulator();
    await lab.host.exec(['sh', '-c', 'kill -9 $(cat /run/libvirt/libvirtd.pid)']);
    const unreachable = { code: 'hypervisor_unreachable', permanent: false };
    await expect(lab.instances.apply(instance, spec, never)).rejects.toMatchObject(unreachable);
    await lab.host.startLibvirt();
    expect(await lab.instances.apply(instance, spec, never)).toEqual({ powerState: 'running' });
    expect(await emulator()).toBe(pid);
  }, 240_000);

  it('stops, starts and reboots it, and tells none of that as news', async () => {
    const news: Found<InstanceStatus>[] = [];
    const end = lab.instances.watch?.((found) => news.push(found));
    const stopped = { ...spec, powerState: 'stopped' as const };
    expect(await lab.instances.apply(instance, stopped, never)).toEqual({ powerState: 'stopped' });
    expect(await consoleText()).toContain('power button');
    expect(await lab.instances.apply(instance, stopped, never)).toEqual({ powerState: 'stopped' });
    await expect(lab.instances.console?.(instance)).rejects.toMatchObject({ code: 'not_running' });
    await expect(lab.instances.operate?.(instance, 'reset', {}, never)).rejects.toMatchObject({ code: 'not_running' });
    await lab.instances.apply(instance, spec, never);
    await booted(2);
    await lab.instances.operate?.(instance, 'reboot', {}, never);
    await booted(3);
    await lab.instances.operate?.(instance, 'reset', {}, never);
    await booted(4);
    await expect(lab.instances.operate?.(instance, 'explode', {}, never)).rejects.toMatchObject({
      code: 'unknown_verb',
    });
    expect(news).toEqual([]);
    end?.();
  }, 240_000);

  it('tells within 5 s of a guest that shut down, also after its listener died', async () => {
    const news: Found<InstanceStatus>[] = [];
    const end = lab.instances.watch?.((found) => news.push(found));
    await sleep(500);
    const listeners = await lab.host.exec(['pgrep', '-f', 'virsh .*event --all']);
    for (const pid of listeners.trim().split('\n')) {
      const inside = await createRunner().run(['readlink', `/proc/${pid}/ns/uts`]);
      if (inside === (await createRunner().run(['readlink', `/proc/${lab.host.pid}/ns/uts`])))
        process.kill(Number(pid));
    }
    await sleep(1500);
    await lab.virsh('shutdown', domain());
    await until('off', async () => (await lab.virsh('domstate', domain())).includes('off'));
    await until('news', async () => news.some(({ status }) => status.powerState === 'stopped'), 5000);
    expect(news).toEqual([{ ref: instance, status: { powerState: 'stopped' } }]);
    end?.();
    await lab.instances.apply(instance, spec, never);
  }, 240_000);

  it('comes back after the restart of the machine, with its disk', async () => {
    const { ino } = await stat(lab.diskPath(disk));
    const count = await boots();
    await lab.driver.close();
    await lab.host.stop();
    await lab.startHost();
    await lab.startDriver();
    expect(await lab.instances.inventory()).toEqual([
      { ref: instance, status: { powerState: 'unknown' }, damaged: true },
    ]);
    expect(await lab.networks.inventory()).toMatchObject([{ ref: network, damaged: true }]);
    await lab.networks.apply(network, networkSpec, never);
    await lab.instances.apply(instance, spec, never);
    await booted(count + 1);
    expect((await stat(lab.diskPath(disk))).ino).toBe(ino);
    expect(await http()).toContain('web-1 10.77.1.10');
  }, 240_000);

  it('says what to do when a guest does not let go of a disk', async () => {
    const more = refTo('disk');
    await lab.disks.apply(more, { sizeBytes: 1024 ** 2, image: null, snapshot: null }, never);
    const stubborn = refTo('instance');
    // From an empty disk nothing boots, and the firmware releases nothing.
    await lab.instances.apply(stubborn, lab.spec([more, disk]), never).catch((error) => {
      expect(error).toMatchObject({ code: 'in_use' });
    });
    const [root, data] = [refTo('disk'), more];
    await lab.disks.apply(root, { sizeBytes: 1024 ** 2, image: null, snapshot: null }, never);
    await lab.instances.apply(stubborn, lab.spec([root, data]), never);
    await lab.driver.close();
    await lab.startDriver({ releaseGraceMs: 2000, stopGraceMs: 1000 });
    await expect(lab.instances.apply(stubborn, lab.spec([root]), never)).rejects.toMatchObject({
      code: 'guest_refused',
      permanent: true,
      message: expect.stringContaining('stop the instance'),
    });
    await expect(lab.disks.remove(data, never)).rejects.toMatchObject({ code: 'in_use' });
    await lab.instances.apply(stubborn, lab.spec([root], { powerState: 'stopped' }), never);
    await lab.disks.remove(data, never);
    await lab.instances.remove(stubborn, never);
    await lab.disks.remove(root, never);
  }, 240_000);

  it('cuts the power of what is no longer this machine’s, at once, and keeps the rest', async () => {
    const { ino } = await stat(lab.diskPath(disk));
    const began = Date.now();
    await lab.instances.halt?.(instance);
    // The guest was not asked: it would have had a minute.
    expect(Date.now() - began).toBeLessThan(30_000);
    await lab.instances.halt?.(instance);
    await lab.instances.halt?.(refTo('instance'));
    expect(await lab.instances.inventory()).toEqual([{ ref: instance, status: { powerState: 'stopped' } }]);
    expect((await stat(lab.diskPath(disk))).ino).toBe(ino);
  }, 240_000);

  it('leaves nothing behind', async () => {
    await lab.instances.remove(instance, never);
    await lab.instances.remove(instance, never);
    await lab.networks.remove(network, never);
    await lab.disks.remove(disk, never);
    expect(await lab.instances.inventory()).toEqual([]);
    expect((await lab.virsh('list', '--all', '--name')).trim()).toBe('');
    expect(await lab.host.exec(['ls', '/sys/class/net'])).toBe(lab.links);
    for (const kind of ['instance', 'network', 'disk']) {
      expect(await readdir(join(lab.context.stateDir, kind))).toEqual([]);
    }
  }, 240_000);
});
