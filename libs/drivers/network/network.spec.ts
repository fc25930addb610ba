/** Networks on the real kernel, inside a host of namespaces; guests are namespaces with a pair of ends. */
import { randomBytes, randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { hostname, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Capability, DriverContext, LeaseSpec, NetworkSpec, Ref } from '#libs/drivers/contract';
import { canHost, createRunner, type Host, startHost } from '#libs/drivers/host';
import { bridgeName, createNetworkCapability, leasePortName, type NetworkStatus, namespaceName } from './index.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: networks: ${ability.reason}`);
const never = new AbortController().signal;

const udhcpcScript = `#!/bin/busybox sh
case "$1" in bound|renew)
  ip addr flush dev $interface
  ip addr add $ip/$mask dev $interface
  ip route replace default via $router
  echo "$ip $hostname $dns $mtu" ;;
esac
`;

const udhcpdConf = (dir: string) => `interface eth0
start 10.77.1.100
end 10.77.1.110
pidfile ${dir}/udhcpd.pid
lease_file ${dir}/udhcpd.leases
`;

async function machine() {
  const run = createRunner();
  return {
    hostname: hostname(),
    resolver: await readFile('/etc/resolv.conf', 'utf8'),
    links: (await run.run(['ip', '-br', 'link'])).replaceAll(/ +/g, ' '),
    netns: await run.run(['ip', 'netns']),
    rules: await run.run(['nft', 'list', 'ruleset']),
  };
}

describe.skipIf(!ability.ok)('networks', () => {
  const installation = randomBytes(4).toString('hex');
  let dir: string;
  let host: Host;
  let context: DriverContext;
  let networks: Capability<NetworkSpec, NetworkStatus>;
  let before: Awaited<ReturnType<typeof machine>>;
  const log = { info() {}, warn() {}, error() {}, debug() {} };
  const images = { path: () => Promise.reject(new Error('no images here')) };

  const refOf = (tenantId: string): Ref => ({ tenantId, kind: 'network', id: randomUUID() });
  const lease = (n: number, name: string | null = null): LeaseSpec => ({
    ip: `10.77.1.${n}`,
    mac: `52:54:00:00:01:${n.toString(16).padStart(2, '0')}`,
    hostname: name,
  });
  const specOf = (...leases: LeaseSpec[]): NetworkSpec => ({
    subnet: '10.77.1.0/24',
    gateway: '10.77.1.1',
    gatewayMac: '52:54:00:77:00:01',
    dns: [],
    domain: 'lab.example',
    mtu: 1450,
    leases,
  });
  const ok = (argv: string[]) =>
    host.exec(argv).then(
      () => true,
      () => false,
    );
  const ping = (guest: string, ip: string) =>
    ok(['ip', 'netns', 'exec', guest, 'busybox', 'ping', '-c', '1', '-W', '1', ip]);

  /** Plugs a namespace into a network at the port of its lease; no address yet. */
  async function plug(guest: string, ref: Ref, mac: string, port?: string) {
    const tap = port ?? leasePortName(installation, ref.id, mac);
    await host.exec(['ip', 'netns', 'add', guest]);
    await host.exec(['ip', 'link', 'add', tap, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', guest]);
    await host.exec(['ip', 'link', 'set', tap, 'master', bridgeName(installation, ref.id), 'up']);
    await host.exec(['ip', '-n', guest, 'link', 'set', 'eth0', 'address', mac, 'up']);
    return tap;
  }
  const unplug = (guest: string) => host.exec(['ip', 'netns', 'del', guest]);
  const dhcp = async (guest: string) => {
    const client = [
      'busybox',
      'udhcpc',
      '-i',
      'eth0',
      '-O',
      'mtu',
      '-n',
      '-q',
      '-f',
      '-t',
      '3',
      '-T',
      '1',
      '-s',
      `${dir}/udhcpc`,
    ];
    const out = await host.runner.run(['ip', 'netns', 'exec', guest, ...client]).catch(() => '');
    return out.trim();
  };

  beforeAll(async () => {
    before = await machine();
    dir = await mkdtemp(join(tmpdir(), 'rz-network-'));
    await writeFile(join(dir, 'udhcpc'), udhcpcScript, { mode: 0o755 });
    host = await startHost({ dir: join(dir, 'host'), cacheDir: resolve('.rhyzome/cache/libvirt'), hostname: 'rz-net' });
    context = { installation, stateDir: join(dir, 'state'), images, log };
    networks = createNetworkCapability(context, { enter: host.command([]) });
  });
  afterAll(async () => {
    await host?.stop();
    await rm(dir, { recursive: true, force: true });
    expect(await machine()).toEqual(before);
  });

  it('gives two tenants the same subnet on one machine, and keeps them apart', async () => {
    const [a, b] = [refOf('acme'), refOf('globex')];
    await networks.apply(a, specOf(lease(10, 'web'), lease(11)), never);
    await networks.apply(b, specOf(lease(10, 'db'), lease(12)), never);
    await plug('a10', a, lease(10).mac);
    await plug('a11', a, lease(11).mac);
    await plug('b10', b, lease(10).mac);
    await plug('b12', b, lease(12).mac);
    expect(await dhcp('a10')).toBe('10.77.1.10 web 10.77.1.1 1450');
    expect(await dhcp('b10')).toBe('10.77.1.10 db 10.77.1.1 1450');
    await dhcp('a11');
    await dhcp('b12');
    expect(await ping('a10', '10.77.1.11')).toBe(true);
    expect(await ping('b10', '10.77.1.12')).toBe(true);
    expect(await ping('a10', '10.77.1.12')).toBe(false);
    expect(await ping('a10', '10.77.1.1')).toBe(true);
    const names = ['busybox', 'nslookup', 'web.lab.example', '10.77.1.1'];
    expect(await host.exec(['ip', 'netns', 'exec', 'a11', ...names])).toContain('10.77.1.10');
    for (const guest of ['a10', 'a11', 'b10', 'b12']) await unplug(guest);
    expect((await networks.inventory()).map(({ ref }) => ref)).toEqual(expect.arrayContaining([a, b]));
    await networks.remove(a, never);
    await networks.remove(b, never);
  }, 60_000);

  it('lets nobody send from an address, MAC or port that is not theirs, or serve DHCP', async () => {
    const ref = refOf('acme');
    await networks.apply(ref, specOf(lease(10), lease(11), lease(12)), never);
    await plug('good', ref, lease(10).mac);
    await plug('bad', ref, lease(11).mac);
    await dhcp('good');
    expect(await dhcp('bad')).toContain('10.77.1.11');
    expect(await ping('bad', '10.77.1.10')).toBe(true);
    // Another's address, even a free one.
    await host.exec(['ip', '-n', 'bad', 'addr', 'flush', 'dev', 'eth0']);
    await host.exec(['ip', '-n', 'bad', 'addr', 'add', '10.77.1.12/24', 'dev', 'eth0']);
    expect(await ping('bad', '10.77.1.10')).toBe(false);
    expect(await ping('bad', '10.77.1.1')).toBe(false);
    expect(await ping('good', '10.77.1.12')).toBe(false);
    // Another's MAC with its address.
    await host.exec(['ip', '-n', 'bad', 'link', 'set', 'eth0', 'address', lease(12).mac]);
    expect(await ping('bad', '10.77.1.10')).toBe(false);
    expect(await dhcp('bad')).toBe('');
    // A port without a lease, with a lease's MAC and address.
    await plug('stray', ref, lease(12).mac, `t${installation}stray`);
    await host.exec(['ip', '-n', 'stray', 'addr', 'add', '10.77.1.12/24', 'dev', 'eth0']);
    expect(await ping('stray', '10.77.1.10')).toBe(false);
    // A guest's own DHCP server, while the network's is down.
    await host.exec(['ip', '-n', 'bad', 'link', 'set', 'eth0', 'address', lease(11).mac]);
    await host.exec(['ip', '-n', 'bad', 'addr', 'flush', 'dev', 'eth0']);
    await host.exec(['ip', '-n', 'bad', 'addr', 'replace', '10.77.1.11/24', 'dev', 'eth0']);
    expect(await ping('bad', '10.77.1.10')).toBe(true);
    await host.exec(['sh', '-c', `kill -9 $(cat ${context.stateDir}/network/${ref.id}/dnsmasq.pid)`]);
    await writeFile(join(dir, 'udhcpd'), udhcpdConf(dir));
    await writeFile(join(dir, 'udhcpd.leases'), '');
    await host.exec(['ip', 'netns', 'exec', 'bad', 'busybox', 'udhcpd', join(dir, 'udhcpd')]);
    expect(await dhcp('good')).toBe('');
    await networks.apply(ref, specOf(lease(10), lease(11), lease(12)), never);
    expect(await dhcp('good')).toContain('10.77.1.10');
    // Still well for the one who plays by the rules.
    expect(await ping('good', '10.77.1.1')).toBe(true);
    for (const guest of ['good', 'bad', 'stray']) await unplug(guest);
    await networks.remove(ref, never);
  }, 60_000);

  it('gives a freed address to another MAC at once, under the feet of a running neighbour', async () => {
    const ref = refOf('acme');
    const old = lease(10, 'old');
    await networks.apply(ref, specOf(old, lease(11)), never);
    await plug('old', ref, old.mac);
    await plug('neighbour', ref, lease(11).mac);
    expect(await dhcp('old')).toContain('10.77.1.10 old');
    await dhcp('neighbour');
    const pid = await readFile(join(context.stateDir, 'network', ref.id, 'dnsmasq.pid'), 'utf8');
    await unplug('old');
    const fresh = { ip: old.ip, mac: '52:54:00:00:02:01', hostname: 'fresh' };
    await networks.apply(ref, specOf(fresh, lease(11)), never);
    await plug('fresh', ref, fresh.mac);
    expect(await dhcp('fresh')).toContain('10.77.1.10 fresh');
    expect(await ping('fresh', '10.77.1.1')).toBe(true);
    expect(await ping('neighbour', '10.77.1.1')).toBe(true);
    expect(await readFile(join(context.stateDir, 'network', ref.id, 'dnsmasq.pid'), 'utf8')).toBe(pid);
    const gone = await host.runner
      .run(['ip', 'netns', 'exec', 'neighbour', 'busybox', 'nslookup', 'old.lab.example', '10.77.1.1'])
      .catch((error: Error) => error.message);
    expect(gone).not.toContain('10.77.1.10');
    await unplug('fresh');
    await unplug('neighbour');
    await networks.remove(ref, never);
  }, 60_000);

  it('comes back from any half-made state, and leaves nothing behind', async () => {
    const empty = await host.exec(['sh', '-c', 'ip -br link | cut -d" " -f1; ip netns; nft list ruleset']);
    const ref = refOf('acme');
    const spec = specOf(lease(10));
    const name = bridgeName(installation, ref.id);
    const namespace = namespaceName(installation, ref.id);
    for (const damage of [
      ['true'],
      ['ip', 'link', 'del', name],
      ['ip', 'netns', 'del', namespace],
      ['ip', 'link', 'del', `g${name.slice(1)}`],
      ['nft', 'flush', 'ruleset'],
      ['umount', `/run/netns/${namespace}`],
      ['sh', '-c', `kill -9 $(cat ${context.stateDir}/network/${ref.id}/dnsmasq.pid)`],
    ]) {
      await networks.apply(ref, spec, never);
      await host.exec(damage);
      await networks.apply(ref, spec, never);
      await plug('guest', ref, lease(10).mac);
      expect(await dhcp('guest'), damage.join(' ')).toContain('10.77.1.10');
      await unplug('guest');
    }
    await networks.remove(ref, never);
    await networks.remove(ref, never);
    expect(await networks.inventory()).toEqual([]);
    expect(await host.exec(['sh', '-c', 'ip -br link | cut -d" " -f1; ip netns; nft list ruleset'])).toBe(empty);
    expect(await ok(['pgrep', '-f', `--conf-file=${context.stateDir}`])).toBe(false);
  }, 90_000);

  it('lets guests out by the uplink, but not to the node, denied ranges, or in from outside', async () => {
    await host.exec(['ip', 'netns', 'add', 'world']);
    await host.exec(['ip', 'link', 'add', 'up0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', 'world']);
    await host.exec(['ip', 'addr', 'add', '203.0.113.1/24', 'dev', 'up0']);
    await host.exec(['ip', 'link', 'set', 'up0', 'up']);
    for (const address of ['203.0.113.2/24', '10.9.0.1/32', '198.51.100.7/32']) {
      await host.exec(['ip', '-n', 'world', 'addr', 'add', address, 'dev', 'eth0']);
    }
    await host.exec(['ip', '-n', 'world', 'link', 'set', 'eth0', 'up']);
    await host.exec(['ip', 'route', 'add', 'default', 'via', '203.0.113.2']);
    const uplink = { interface: 'up0', resolvers: [], denied: ['10.0.0.0/8', '198.51.100.7/32'] };
    const routed = createNetworkCapability(context, { enter: host.command([]), uplink });
    const [a, b] = [refOf('acme'), refOf('globex')];
    await routed.apply(a, specOf(lease(10)), never);
    await routed.apply(b, specOf(lease(10)), never);
    await plug('a', a, lease(10).mac);
    await plug('b', b, lease(10).mac);
    await dhcp('a');
    await dhcp('b');
    expect(await ping('a', '203.0.113.2')).toBe(true);
    expect(await ping('b', '203.0.113.2')).toBe(true);
    expect(await ping('a', '203.0.113.1')).toBe(false);
    expect(await ping('a', '10.9.0.1')).toBe(false);
    expect(await ping('a', '198.51.100.7')).toBe(false);
    const outer = await host.exec(['sh', '-c', "ip -4 -br addr | awk '/^u/ {print $3}' | cut -d/ -f1"]);
    for (const address of outer.trim().split('\n')) expect(await ping('a', address), address).toBe(false);
    await host.exec(['ip', '-n', 'world', 'route', 'add', '100.64.0.0/10', 'via', '203.0.113.1']);
    const inner = (await host.exec(['ip', '-n', namespaceName(installation, a.id), '-4', '-br', 'addr', 'show', 'wan']))
      .split(/[ /]+/)
      .at(2);
    expect(inner).toMatch(/^100\./);
    expect(await ping('world', String(inner))).toBe(false);
    // The bridge's own MAC is no way into the machine either.
    const bridge = bridgeName(installation, a.id);
    const mac = (await host.exec(['cat', `/sys/class/net/${bridge}/address`])).trim();
    const node = ['neigh', 'replace', '10.77.1.99', 'lladdr', mac, 'dev', 'eth0', 'nud', 'permanent'];
    await host.exec(['ip', '-n', 'a', ...node]);
    await host.exec(['ip', '-n', 'a', 'route', 'replace', '203.0.113.1', 'via', '10.77.1.99']);
    expect(await ping('a', '203.0.113.1')).toBe(false);
    await unplug('a');
    await unplug('b');
    await routed.remove(a, never);
    await routed.remove(b, never);
    expect(await host.exec(['nft', 'list', 'ruleset'])).toBe('');
    await unplug('world');
  }, 60_000);

  it.each([
    ['subnet', { subnet: '10.77.1.4/24' }],
    ['subnet', { subnet: '10.77.1.0/24; flush ruleset' }],
    ['gateway', { gateway: '10.78.1.1' }],
    ['gateway MAC', { gatewayMac: '53:54:00:77:00:01' }],
    ['domain', { domain: 'x\nuser=root' }],
    ['MTU', { mtu: 1.5 }],
    ['lease address', { leases: [{ ip: '10.77.1.255', mac: lease(1).mac, hostname: null }] }],
    ['lease MAC', { leases: [{ ip: '10.77.1.5', mac: 'x', hostname: null }] }],
    ['lease host name', { leases: [{ ip: '10.77.1.5', mac: lease(1).mac, hostname: 'a,b' }] }],
    ['twice', { leases: [lease(5), { ...lease(6), ip: '10.77.1.5' }] }],
  ])('refuses a wrong %s', async (what, change) => {
    const wrong = networks.apply(refOf('acme'), { ...specOf(), ...change } as NetworkSpec, never);
    await expect(wrong).rejects.toMatchObject({ code: 'invalid_spec', permanent: true });
    await expect(wrong).rejects.toThrow(what);
  });
});
