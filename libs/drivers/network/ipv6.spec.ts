/** IPv6 in networks on the real kernel, with the kernel's own SLAAC and ISC's DHCPv6 client in the guests. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Capability, LeaseSpec, NetworkSpec } from '#libs/drivers/contract';
import { canHost } from '#libs/drivers/host';
import { Lab, lease, networkRef, networkSpec, never } from './lab.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: IPv6: ${ability.reason}`);

const slaacIp = (n: number) => `fd77:1::5054:ff:fe00:1${n.toString(16).padStart(2, '0')}`;
const slaac = (...leases: LeaseSpec[]): NetworkSpec => ({
  ...networkSpec(...leases),
  subnet6: 'fd77:1::/64',
  gateway6: 'fd77:1::1',
});
const stateful = (...leases: LeaseSpec[]): NetworkSpec => ({
  ...networkSpec(...leases),
  subnet6: 'fd77:2::/112',
  gateway6: 'fd77:2::1',
});
const lease6 = (n: number, ip6: string | null = slaacIp(n), hostname: string | null = null) => ({
  ...lease(n, hostname),
  ip6,
});

const dhclientScript = `#!/bin/sh
[ -n "$new_ip6_address" ] || exit 0
ip -6 addr replace "$new_ip6_address/128" dev "$interface" nodad
echo "$new_ip6_address $new_dhcp6_name_servers"
`;

describe.skipIf(!ability.ok)('IPv6', () => {
  let lab: Lab;
  let networks: Capability<NetworkSpec, object>;

  beforeAll(async () => {
    lab = await Lab.open('rz-ipv6');
    networks = lab.networks();
    await writeFile(join(lab.dir, 'dhclient'), dhclientScript, { mode: 0o755 });
  });
  afterAll(() => lab?.close());

  async function dhcp6(guest: string): Promise<string> {
    // It needs its link-local address first.
    for (let i = 0; i < 40; i++) {
      if ((await lab.run(`ip -n ${guest} -6 addr show dev eth0 scope link -tentative`)) !== '') break;
      await sleep(100);
    }
    const files = `-sf ${join(lab.dir, 'dhclient')} -lf ${lab.dir}/${guest}.leases -pf /dev/null -cf /dev/null`;
    return (
      await lab.sh(`timeout 12 ip netns exec ${guest} dhclient -6 -1 -d ${files} eth0 2>/dev/null & 
      for i in $(seq 100); do sleep 0.1; grep -q lease6 ${lab.dir}/${guest}.leases && break; done; sleep 0.5; kill $! ; wait`)
    ).trim();
  }
  const addresses = (guest: string) => lab.run(`ip -n ${guest} -6 -br addr show dev eth0 scope global`);

  it('gives guests of a /64 an address of their MAC, a router, and names', async () => {
    const ref = networkRef('acme');
    await networks.apply(ref, slaac(lease6(10, undefined, 'web'), lease6(11), lease6(12)), never);
    await lab.plug('s10', ref, lease(10).mac);
    await lab.plug('s11', ref, lease(11).mac);
    expect(await lab.ownAddress6('s10')).toBe(slaacIp(10));
    expect(await lab.ownAddress6('s11')).toBe(slaacIp(11));
    expect(await lab.reaches('s10', 'fd77:1::1')).toBe(true);
    expect(await lab.reaches('s10', slaacIp(11))).toBe(true);
    expect(await lab.run('ip -n s10 -6 route show default')).toContain('via fe80::');
    expect(await lab.run('cat /proc/sys/net/ipv6/conf/lo/mtu')).not.toBe('1450\n');
    expect(await lab.run('ip netns exec s10 cat /proc/sys/net/ipv6/conf/eth0/mtu')).toBe('1450\n');
    await lab.dhcp('s11');
    expect(await lab.lookup('s11', 'web.lab.example', 'aaaa')).toContain(slaacIp(10));
    expect(await lab.lookup('s11', 'web.lab.example', 'aaaa', 'fd77:1::1')).toContain(slaacIp(10));
    // Applied again, and without a change under the guests' feet.
    await networks.apply(ref, slaac(lease6(10, undefined, 'web'), lease6(11), lease6(12)), never);
    expect(await lab.ping('s10', slaacIp(11))).toBe(true);
    // Without IPv6 again.
    await networks.apply(ref, networkSpec(lease(10), lease(11)), never);
    expect(await lab.ping('s10', slaacIp(11))).toBe(false);
    expect(await lab.reaches('s11', '10.77.1.1')).toBe(true);
    for (const guest of ['s10', 's11']) await lab.unplug(guest);
    await networks.remove(ref, never);
  }, 60_000);

  it('lets nobody take another’s address, be a router, or serve DHCPv6', async () => {
    const ref = networkRef('acme');
    await networks.apply(ref, slaac(lease6(10), lease6(11), lease6(12)), never);
    await lab.plug('good', ref, lease(10).mac);
    await lab.plug('bad', ref, lease(11).mac);
    expect(await lab.ownAddress6('good')).toBe(slaacIp(10));
    expect(await lab.ownAddress6('bad')).toBe(slaacIp(11));
    expect(await lab.reaches('bad', slaacIp(10))).toBe(true);
    // A second address of its own making, and another's.
    for (const address of ['fd77:1::bad', slaacIp(12)]) {
      await lab.run(`ip -n bad addr add ${address}/64 dev eth0 nodad`);
      const ping = `ip netns exec bad busybox ping6 -c 1 -W 1 -I ${address} ${slaacIp(10)}`;
      await expect(lab.run(ping), address).rejects.toThrow();
      // And nobody is told that it is there: the neighbour stays unknown.
      expect(await lab.ping('good', address), address).toBe(false);
    }
    expect(await lab.run(`ip -n good -6 neigh show to ${slaacIp(12)}`)).not.toContain(lease(11).mac);
    // Router advertisements and DHCPv6 answers, counted where they would arrive.
    await lab.sh(`ip netns exec good nft 'add table ip6 probe; add chain ip6 probe in { type filter hook input priority -300; };
      add rule ip6 probe in icmpv6 type nd-router-advert ip6 saddr fe80::5054:ff:fe00:10b counter;
      add rule ip6 probe in udp sport 547 ip6 saddr fe80::5054:ff:fe00:10b counter;
      add rule ip6 probe in udp sport 5470 ip6 saddr fe80::5054:ff:fe00:10b counter'`);
    const rogue = '--no-resolv --no-hosts --pid-file= --port=0 --user=root --interface=eth0 --enable-ra';
    const range = '--dhcp-range=fd66::,ra-only --dhcp-leasefile=/dev/null --ra-param=eth0,4,0';
    await lab.run('ip -n bad addr add fd66::1/64 dev eth0 nodad');
    const spare = 'fe80::5054:ff:fe00:10a%eth0';
    const send = (port: number) =>
      lab.sh(`ip netns exec bad sh -c 'echo x | socat - "UDP6-SENDTO:[${spare}]:546,sourceport=${port}"'`);
    await lab.run(`ip netns exec bad dnsmasq --conf-file=/dev/null ${rogue} ${range}`);
    await send(547);
    await send(5470);
    await sleep(6000);
    const counted = [...(await lab.run('ip netns exec good nft list table ip6 probe')).matchAll(/packets (\d+)/g)];
    expect(counted.map(([, packets]) => packets)).toEqual(['0', '0', '1']);
    expect(await addresses('good')).not.toContain('fd66');
    for (const guest of ['good', 'bad']) await lab.unplug(guest);
    await networks.remove(ref, never);
  }, 60_000);

  it('gives guests of a longer prefix their addresses by DHCPv6, freed ones to others at once', async () => {
    const ref = networkRef('acme');
    const spec = stateful(lease6(10, 'fd77:2::a', 'db'), lease6(11, 'fd77:2::b'));
    await networks.apply(ref, spec, never);
    await lab.plug('d10', ref, lease(10).mac);
    await lab.plug('d11', ref, lease(11).mac);
    expect(await dhcp6('d10')).toBe('fd77:2::a fd77:2::1');
    expect(await dhcp6('d11')).toContain('fd77:2::b');
    await lab.run('ip -n d11 route replace fd77:2::/112 dev eth0');
    await lab.run('ip -n d10 route replace fd77:2::/112 dev eth0');
    expect(await lab.reaches('d11', 'fd77:2::1')).toBe(true);
    expect(await lab.reaches('d11', 'fd77:2::a')).toBe(true);
    expect(await lab.lookup('d11', 'db.lab.example', 'aaaa', 'fd77:2::1')).toContain('fd77:2::a');
    // The router's route, and no address that the guest made of the prefix.
    expect((await addresses('d11')).match(/fd77/g)).toHaveLength(1);
    await lab.unplug('d10');
    const fresh = { ...lease(13, 'fresh'), ip6: 'fd77:2::a' };
    await networks.apply(ref, stateful(lease6(11, 'fd77:2::b'), fresh), never);
    await lab.plug('d13', ref, fresh.mac);
    expect(await dhcp6('d13')).toContain('fd77:2::a');
    await lab.run('ip -n d13 route replace fd77:2::/112 dev eth0');
    expect(await lab.reaches('d13', 'fd77:2::b')).toBe(true);
    expect(await lab.reaches('d11', 'fd77:2::a')).toBe(true);
    for (const guest of ['d11', 'd13']) await lab.unplug(guest);
    await networks.remove(ref, never);
  }, 90_000);
});
