/** Networks on the real kernel, inside a host of namespaces. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Capability, NetworkSpec } from '#libs/drivers/contract';
import { canHost, machineState } from '#libs/drivers/host';
import { Lab, lease, networkRef, networkSpec, never } from './lab.js';
import { bridgeName, leasePortName, namespaceName } from './names.js';
import type { LocalNetworkStatus } from './parts.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: networks: ${ability.reason}`);

const dhcpServer = (dir: string) => `interface eth0
start 10.77.1.100
end 10.77.1.110
pidfile ${dir}/udhcpd.pid
lease_file ${dir}/udhcpd.leases
`;

describe.skipIf(!ability.ok)('networks', () => {
  let lab: Lab;
  let networks: Capability<NetworkSpec, LocalNetworkStatus>;
  let before: Record<string, string>;
  const stateOf = (id: string, file: string) => join(lab.stateDir, 'network', id, file);
  const outside = () => lab.sh('ls /sys/class/net; ip netns; nft list ruleset');

  const guardEntriesBefore = (id: string) => [
    { port: leasePortName(lab.installation, id, lease(11).mac), mac: lease(11).mac, ip: lease(11).ip },
  ];

  beforeAll(async () => {
    before = await machineState();
    lab = await Lab.open('rz-net');
    networks = lab.networks();
  });
  afterAll(async () => {
    await lab?.close();
    expect(await machineState()).toEqual(before);
  });

  it('gives two tenants the same subnet on one machine, and keeps them apart', async () => {
    const [a, b] = [networkRef('acme'), networkRef('globex')];
    await networks.apply(a, networkSpec(lease(10, 'web'), lease(11)), never);
    await networks.apply(b, networkSpec(lease(10, 'db'), lease(12)), never);
    await lab.plug('a10', a, lease(10).mac);
    await lab.plug('a11', a, lease(11).mac);
    await lab.plug('b10', b, lease(10).mac);
    await lab.plug('b12', b, lease(12).mac);
    expect(await lab.dhcp('a10')).toBe('10.77.1.10 web 10.77.1.1 1450');
    expect(await lab.dhcp('b10')).toBe('10.77.1.10 db 10.77.1.1 1450');
    expect(await lab.dhcp('a11')).toMatch(/^10\.77\.1\.11 /);
    expect(await lab.dhcp('b12')).toMatch(/^10\.77\.1\.12 /);
    expect(await lab.reaches('a10', '10.77.1.11')).toBe(true);
    expect(await lab.reaches('b10', '10.77.1.12')).toBe(true);
    expect(await lab.ping('a10', '10.77.1.12')).toBe(false);
    expect(await lab.reaches('a10', '10.77.1.1')).toBe(true);
    expect(await lab.lookup('a11', 'web.lab.example')).toContain('10.77.1.10');
    for (const guest of ['a10', 'a11', 'b10', 'b12']) await lab.unplug(guest);
    expect((await networks.inventory()).map(({ ref }) => ref)).toEqual(expect.arrayContaining([a, b]));
    await networks.remove(a, never);
    await networks.remove(b, never);
  }, 60_000);

  it('lets nobody send from an address, MAC or port that is not theirs, or serve DHCP', async () => {
    const ref = networkRef('acme');
    const spec = networkSpec(lease(10), lease(11), lease(12));
    await networks.apply(ref, spec, never);
    await lab.plug('good', ref, lease(10).mac);
    await lab.plug('bad', ref, lease(11).mac);
    await lab.dhcp('good');
    expect(await lab.dhcp('bad')).toContain('10.77.1.11');
    expect(await lab.reaches('bad', '10.77.1.10')).toBe(true);
    // Another's address.
    await lab.address('bad', '10.77.1.12/24');
    expect(await lab.ping('bad', '10.77.1.10')).toBe(false);
    expect(await lab.ping('bad', '10.77.1.1')).toBe(false);
    expect(await lab.ping('good', '10.77.1.12')).toBe(false);
    // Another's MAC with its address.
    await lab.run(`ip -n bad link set eth0 address ${lease(12).mac}`);
    expect(await lab.ping('bad', '10.77.1.10')).toBe(false);
    expect(await lab.dhcp('bad', 2)).toBe('');
    // A port without a lease, with a lease's MAC and address.
    await lab.plug('stray', ref, lease(12).mac, `t${lab.installation}stray`);
    await lab.address('stray', '10.77.1.12/24');
    expect(await lab.ping('stray', '10.77.1.10')).toBe(false);
    // A guest's own DHCP server, while the network's is down.
    await lab.run(`ip -n bad link set eth0 address ${lease(11).mac}`);
    await lab.address('bad', '10.77.1.11/24');
    expect(await lab.reaches('bad', '10.77.1.10')).toBe(true);
    await lab.sh(`kill -9 $(cat ${stateOf(ref.id, 'dnsmasq.pid')})`);
    await writeFile(join(lab.dir, 'udhcpd'), dhcpServer(lab.dir));
    await writeFile(join(lab.dir, 'udhcpd.leases'), '');
    await lab.run(`ip netns exec bad busybox udhcpd ${lab.dir}/udhcpd`);
    expect(await lab.dhcp('good', 2)).toBe('');
    await networks.apply(ref, spec, never);
    expect(await lab.dhcp('good')).toContain('10.77.1.10');
    expect(await lab.reaches('good', '10.77.1.1')).toBe(true);
    for (const guest of ['good', 'bad', 'stray']) await lab.unplug(guest);
    await networks.remove(ref, never);
  }, 60_000);

  it('gives a freed address to another MAC at once, without a restart under its neighbours', async () => {
    // A shell would run this first, as it does for whoever starts it over a network.
    await writeFile(join(lab.dir, '.bashrc'), 'sleep 60\n');
    const networks = lab.networks(undefined, ['env', `HOME=${lab.dir}`, 'SHLVL=0']);
    const ref = networkRef('acme');
    const old = lease(10, 'old');
    await networks.apply(ref, networkSpec(old, lease(11)), never);
    await lab.plug('old', ref, old.mac);
    await lab.plug('neighbour', ref, lease(11).mac);
    expect(await lab.dhcp('old')).toContain('10.77.1.10 old');
    await lab.dhcp('neighbour');
    const pid = await readFile(stateOf(ref.id, 'dnsmasq.pid'), 'utf8');
    await lab.unplug('old');
    const fresh = { ip: old.ip, mac: '52:54:00:00:02:01', hostname: 'fresh', ip6: null };
    await networks.apply(ref, networkSpec(fresh, lease(11)), never);
    await lab.plug('fresh', ref, fresh.mac);
    expect(await lab.dhcp('fresh')).toContain('10.77.1.10 fresh');
    expect(await lab.reaches('fresh', '10.77.1.1')).toBe(true);
    expect(await lab.reaches('neighbour', '10.77.1.1')).toBe(true);
    expect(await lab.lookup('neighbour', 'fresh.lab.example')).toContain('10.77.1.10');
    expect(await lab.lookup('neighbour', 'old.lab.example')).not.toContain('10.77.1.10');
    expect(await readFile(stateOf(ref.id, 'dnsmasq.pid'), 'utf8')).toBe(pid);
    await lab.unplug('fresh');
    await lab.unplug('neighbour');
    await networks.remove(ref, never);
  }, 60_000);

  it.each([1, 80])(
    'forgets %i leases by a restart where they cannot be released, or are too many',
    async (count) => {
      await mkdir(join(lab.dir, 'bin'), { recursive: true });
      await writeFile(join(lab.dir, 'bin', 'socat'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
      const networks = lab.networks(
        undefined,
        count === 1 ? ['env', `PATH=${lab.dir}/bin:/usr/sbin:/usr/bin:/sbin:/bin`] : [],
      );
      const ref = networkRef('acme');
      const old = Array.from({ length: count }, (_, i) => lease(10 + i));
      await networks.apply(ref, networkSpec(...old), never);
      await lab.plug('old', ref, old[0]!.mac);
      expect(await lab.dhcp('old')).toContain('10.77.1.10');
      const pid = await readFile(stateOf(ref.id, 'dnsmasq.pid'), 'utf8');
      await lab.unplug('old');
      const fresh = { ip: '10.77.1.10', mac: '52:54:00:00:02:01', hostname: null, ip6: null };
      await networks.apply(ref, networkSpec(fresh), never);
      expect(await readFile(stateOf(ref.id, 'dnsmasq.pid'), 'utf8')).not.toBe(pid);
      await lab.plug('fresh', ref, fresh.mac);
      expect(await lab.dhcp('fresh')).toContain('10.77.1.10');
      await lab.unplug('fresh');
      await networks.remove(ref, never);
    },
    60_000,
  );

  it('comes back from any half-made state, with its guests plugged in, and leaves nothing behind', async () => {
    const empty = await outside();
    const ref = networkRef('acme');
    const bridge = bridgeName(lab.installation, ref.id);
    const namespace = namespaceName(lab.installation, ref.id);
    await networks.apply(ref, networkSpec(lease(10)), never);
    await lab.plug('guest', ref, lease(10).mac);
    for (const damage of [
      'true',
      `ip link del ${bridge}`,
      `ip netns del ${namespace}`,
      `ip link del g${bridge.slice(1)}`,
      'nft flush ruleset',
      `umount /run/netns/${namespace}`,
      `kill -9 $(cat ${stateOf(ref.id, 'dnsmasq.pid')})`,
      `rm ${stateOf(ref.id, 'dnsmasq.pid')}`,
      `rm -r ${lab.stateDir}/network`,
      // As an agent of before wrote it.
      `echo '${JSON.stringify({ ref, slot: null, entries: guardEntriesBefore(ref.id) })}' > ${stateOf(ref.id, 'record.json')}`,
    ]) {
      await lab.sh(damage);
      await networks.apply(ref, networkSpec(lease(10)), never);
      expect(await lab.dhcp('guest'), damage).toContain('10.77.1.10');
    }
    await lab.unplug('guest');
    await networks.remove(ref, never);
    await networks.remove(ref, never);
    expect(await networks.inventory()).toEqual([]);
    expect(await outside()).toBe(empty);
    expect(await lab.sh(`pgrep -f 'dnsmasq --conf-file=${lab.stateDir}' | grep -vw $$ || true`)).toBe('');
  }, 90_000);

  it('keeps its leases when MTU, resolvers and domain change, and tells guests when they ask again', async () => {
    const ref = networkRef('acme');
    const leases = [{ ...lease(10, 'web'), ip6: 'fd77:2::a' }];
    const spec = { ...networkSpec(...leases), subnet6: 'fd77:2::/112', gateway6: 'fd77:2::1' };
    await networks.apply(ref, spec, never);
    await lab.plug('guest', ref, lease(10).mac);
    expect(await lab.dhcp('guest')).toBe('10.77.1.10 web 10.77.1.1 1450');
    const [pid, held] = [await readFile(stateOf(ref.id, 'dnsmasq.pid'), 'utf8'), stateOf(ref.id, 'dnsmasq.leases')];
    const client = (await readFile(held, 'utf8')).split('\n').find((line) => line.includes(lease(10).mac));
    expect(client).toContain('10.77.1.10');
    const dns = ['192.0.2.53', '2001:db8::53'];
    await networks.apply(ref, { ...spec, mtu: 1400, dns }, never);
    expect(await readFile(held, 'utf8')).toContain(client);
    expect(await lab.reaches('guest', '10.77.1.1')).toBe(true);
    expect(await lab.dhcp('guest')).toBe('10.77.1.10 web 192.0.2.53 1400');
    expect(await readFile(stateOf(ref.id, 'dnsmasq.pid'), 'utf8')).toBe(pid);
    const now = (await readFile(held, 'utf8')).split('\n').filter((line) => /^(duid|[0-9]+ 52)/.test(line));
    await networks.apply(ref, { ...spec, mtu: 1400, dns, domain: 'other.example' }, never);
    const after = (await readFile(held, 'utf8')).split('\n');
    expect(after).toEqual(expect.arrayContaining(now));
    expect(await lab.lookup('guest', 'web.other.example')).toContain('10.77.1.10');
    await lab.unplug('guest');
    await networks.remove(ref, never);
  }, 30_000);

  it('takes a changed subnet, gateway and domain', async () => {
    const ref = networkRef('acme');
    await networks.apply(ref, networkSpec(lease(10)), never);
    const moved = { ...networkSpec(), subnet: '10.77.0.0/16', gateway: '10.77.0.1', domain: null, dns: ['192.0.2.53'] };
    await networks.apply(ref, { ...moved, leases: [lease(10, 'web')] }, never);
    await lab.plug('guest', ref, lease(10).mac);
    expect(await lab.dhcp('guest')).toBe('10.77.1.10 web 192.0.2.53 1450');
    expect(await lab.reaches('guest', '10.77.0.1')).toBe(true);
    expect(await lab.ping('guest', '10.77.1.1')).toBe(false);
    await lab.unplug('guest');
    await networks.remove(ref, never);
  }, 30_000);
});
