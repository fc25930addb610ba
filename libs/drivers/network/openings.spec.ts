/** Public addresses and forwards, inside a host whose uplink leads to a namespace that plays the world. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Capability, NetworkSpec } from '#libs/drivers/contract';
import { canHost } from '#libs/drivers/host';
import { Lab, lease, networkRef, networkSpec, never } from './lab.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: public addresses: ${ability.reason}`);

describe.skipIf(!ability.ok)('from outside', () => {
  let lab: Lab;
  let networks: Capability<NetworkSpec, object>;
  const [a, b] = [networkRef('acme'), networkRef('globex')];
  const own: Partial<NetworkSpec> = {
    publicAddresses: [{ publicIp: '203.0.113.10', ip: '10.77.1.10' }],
    forwards: [
      { publicIp: '203.0.113.20', protocol: 'tcp', port: 8080, ip: '10.77.1.11', targetPort: 80 },
      { publicIp: '203.0.113.20', protocol: 'udp', port: 53, ip: '10.77.1.11', targetPort: 5353 },
      { publicIp: '203.0.113.10', protocol: 'tcp', port: 81, ip: '10.77.1.11', targetPort: 80 },
    ],
  };
  const apply = (change: Partial<NetworkSpec>) =>
    networks.apply(a, { ...networkSpec(lease(10), lease(11)), ...change }, never);
  const proxies = async () => (await lab.run('ip neigh show proxy')).trim().split(/\s*\n/).filter(Boolean).sort();

  beforeAll(async () => {
    lab = await Lab.open('rz-open', true);
    // A client in a range that guests may not reach by themselves.
    await lab.run('ip -n world addr add 192.168.7.7/32 dev eth0');
    networks = lab.networks({ interface: 'up0' });
    await apply(own);
    await networks.apply(b, networkSpec(lease(10)), never);
    for (const [guest, ref, n] of [
      ['a10', a, 10],
      ['a11', a, 11],
      ['b10', b, 10],
    ] as const) {
      await lab.plug(guest, ref, lease(n).mac);
      expect(await lab.dhcp(guest)).toContain(`10.77.1.${n}`);
      await lab.serve(guest, 80);
    }
    await lab.serve('world', 80);
  });
  afterAll(() => lab?.close());

  it('a public address is its guest, both ways, and both see whom they talk to', async () => {
    expect(await lab.reaches('world', '203.0.113.10')).toBe(true);
    expect(await lab.get('world', '203.0.113.10')).toBe('a10 sees 203.0.113.2');
    expect(await lab.get('a10', '203.0.113.2')).toBe('world sees 203.0.113.10');
    expect(await lab.get('a11', '203.0.113.2')).toBe('world sees 203.0.113.1');
    // Answers go to whoever asked, also where guests may not go by themselves.
    const fetch = 'timeout 2 socat -t 2 - TCP4:203.0.113.10:80,bind=192.168.7.7';
    await lab.run('ip route replace 192.168.7.7/32 via 203.0.113.2');
    expect(await lab.sh(`printf 'GET /cgi-bin/who HTTP/1.0\\r\\n\\r\\n' | ip netns exec world ${fetch}`)).toMatch(
      /^a10 sees .*192\.168\.7\.7/m,
    );
    expect(await lab.get('a10', '192.168.7.7')).toBe('');
  }, 30_000);

  it('a forward leads one port to one guest, and no other', async () => {
    expect(await lab.get('world', '203.0.113.20:8080')).toBe('a11 sees 203.0.113.2');
    expect(await lab.get('world', '203.0.113.20:80')).toBe('');
    expect(await lab.get('world', '203.0.113.10:81')).toBe('a11 sees 203.0.113.2');
    await lab.sh(
      `ip netns exec a11 setsid -f socat UDP4-RECVFROM:5353,fork EXEC:cat </dev/null >/dev/null 2>&1; sleep 0.3`,
    );
    expect(await lab.sh(`echo hello | ip netns exec world socat -t 2 - UDP4:203.0.113.20:53`)).toBe('hello\n');
  }, 30_000);

  it('is open to neighbours and other networks by the same address', async () => {
    expect(await lab.get('a10', '203.0.113.20:8080')).toMatch(/^a11 sees /);
    expect(await lab.get('a11', '203.0.113.20:8080')).toMatch(/^a11 sees /);
    expect(await lab.get('a11', '203.0.113.10')).toMatch(/^a10 sees /);
    expect(await lab.get('b10', '203.0.113.10')).toMatch(/^a10 sees /);
    expect(await lab.get('b10', '203.0.113.20:8080')).toMatch(/^a11 sees /);
    expect(await lab.get('b10', '203.0.113.20')).toBe('');
  }, 30_000);

  it('is subject to the firewall, which speaks of guests’ own addresses and ports', async () => {
    const one = { id: 'r', direction: 'in', action: 'allow', protocol: 'tcp', guests: null } as const;
    await apply({ ...own, firewall: [{ ...one, ports: [{ from: 80, to: 80 }], remotes: ['203.0.113.2'] }] });
    expect(await lab.get('world', '203.0.113.20:8080')).toBe('a11 sees 203.0.113.2');
    expect(await lab.get('b10', '203.0.113.20:8080')).toBe('');
    expect(await lab.ping('world', '203.0.113.10')).toBe(false);
    expect(await lab.get('a10', '203.0.113.20:8080')).toBe('');
    await apply(own);
    expect(await lab.get('a10', '203.0.113.20:8080')).toMatch(/^a11 sees /);
  }, 30_000);

  it('is closed at once where the network is no longer this machine’s, and open again when it is applied', async () => {
    await networks.halt?.(a);
    await networks.halt?.(a);
    expect(await proxies()).toEqual([]);
    expect(await lab.ping('a10', '10.77.1.11')).toBe(false);
    expect(await lab.ping('a10', '10.77.1.1')).toBe(false);
    expect(await lab.get('world', '203.0.113.10')).toBe('');
    expect(await lab.get('b10', '203.0.113.2')).toBe('world sees 203.0.113.1');
    await networks.halt?.(networkRef('acme'));
    await apply(own);
    expect(await lab.get('world', '203.0.113.10')).toBe('a10 sees 203.0.113.2');
    expect(await lab.get('a10', '10.77.1.11')).toMatch(/^a11 sees /);
  }, 60_000);

  it('keeps to what is there: an address that goes, moves to another network, or was lost', async () => {
    expect(await proxies()).toEqual(['203.0.113.10 dev up0 proxy', '203.0.113.20 dev up0 proxy']);
    const moved = { ...networkSpec(lease(10)), publicAddresses: [{ publicIp: '203.0.113.10', ip: '10.77.1.10' }] };
    // It comes to the other network before it leaves the one.
    await networks.apply(b, moved, never);
    await apply({});
    expect(await proxies()).toEqual(['203.0.113.10 dev up0 proxy']);
    expect(await lab.get('world', '203.0.113.10')).toBe('b10 sees 203.0.113.2');
    expect(await lab.get('world', '203.0.113.20:8080')).toBe('');
    expect(await lab.get('a10', '203.0.113.2')).toBe('world sees 203.0.113.1');
    for (const damage of [
      'ip neigh del proxy 203.0.113.10 dev up0',
      'nft flush ruleset',
      'ip route flush 203.0.113.10',
    ]) {
      await lab.sh(damage);
      await networks.apply(b, moved, never);
      expect(await lab.get('world', '203.0.113.10'), damage).toBe('b10 sees 203.0.113.2');
    }
    for (const guest of ['a10', 'a11', 'b10']) await lab.unplug(guest);
    await networks.remove(b, never);
    expect(await proxies()).toEqual([]);
    await networks.remove(a, never);
    expect(await lab.run('nft list ruleset')).toBe('');
    expect(await lab.run('ip route')).not.toContain('203.0.113.10');
    expect(await lab.sh('ls /sys/class/net')).toBe('lo\nup0\n');
  }, 60_000);
});
