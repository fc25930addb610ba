import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canHost, machineState, startHost, worldLink } from '#libs/drivers/host';
import { adoptOrCleanHost } from './host.js';
import { startTime } from './processes.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: host: ${ability.reason}`);
const cacheDir = resolve('.rhyzome/cache/libvirt');

describe.skipIf(!ability.ok)('a host', () => {
  let dir: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'rz-host-'));
  });
  afterAll(async () => {
    await adoptOrCleanHost(dir);
    await rm(dir, { recursive: true, force: true });
  });

  it('has names, links, firewall and libvirt of its own and leaves the machine as it was', async () => {
    const before = await machineState();
    const host = await startHost({ dir, cacheDir, hostname: 'rz-spec' });
    expect((await host.exec(['hostname'])).trim()).toBe('rz-spec');
    await host.exec(['ip', 'link', 'add', 'spec0', 'type', 'bridge']);
    await host.exec(['ip', 'netns', 'add', 'spec']);
    await host.exec(['nft', 'add', 'table', 'ip', 'spec']);
    await host.exec(['sh', '-c', 'echo nameserver 192.0.2.1 > /etc/resolv.conf']);
    expect(await host.exec(['virsh', '-c', host.libvirtUri, 'list', '--all'])).toContain('Id');
    expect(await machineState()).toEqual(before);
    await host.stop();
    expect(await startTime(host.pid)).toBeNull();
    expect(await machineState()).toEqual(before);
  }, 60_000);

  it('has a world outside where it is asked for', async () => {
    const host = await startHost({ dir, cacheDir, hostname: 'rz-world', hasWorld: true });
    const ping = (from: string[], address: string) =>
      host.exec([...from, 'busybox', 'ping', '-c', '1', '-W', '5', address]);
    await ping([], worldLink.world);
    await ping(['ip', 'netns', 'exec', 'world'], worldLink.host);
    await host.stop();
  }, 60_000);

  it('ends what a killed owner left behind, and only that', async () => {
    const lost = await startHost({ dir, cacheDir, hostname: 'rz-lost' });
    const other = await startHost({ dir: join(dir, 'other'), cacheDir, hostname: 'rz-other' });
    process.kill(lost.pid, 'SIGKILL');
    await adoptOrCleanHost(dir);
    expect(await startTime(other.pid)).not.toBeNull();
    expect(await other.exec(['virsh', '-c', other.libvirtUri, 'uri'])).toContain('qemu');
    const again = await startHost({ dir, cacheDir, hostname: 'rz-again' });
    await again.stop();
    await other.stop();
  }, 60_000);
});
