/** The way out of a network, inside a host of namespaces whose uplink leads to a namespace that plays the world. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canHost } from '#libs/drivers/host';
import { deniedByDefault } from './agent-rules.js';
import { Lab, lease, networkRef, networkSpec, never } from './lab.js';
import { bridgeName, namespaceName } from './names.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: uplinks: ${ability.reason}`);

describe.skipIf(!ability.ok)('the way out', () => {
  let lab: Lab;
  const [a, b] = [networkRef('acme'), networkRef('globex')];
  const uplink = {
    interface: 'up0',
    resolvers: ['10.9.0.1'],
    denied: [...deniedByDefault, '198.51.100.7/32', '10.9.0.0/16'],
  };

  beforeAll(async () => {
    lab = await Lab.open('rz-uplink', true);
    for (const address of ['10.9.0.1/32', '198.51.100.7/32']) await lab.run(`ip -n world addr add ${address} dev eth0`);
    const answers = '--no-resolv --no-hosts --pid-file= --listen-address=10.9.0.1 --bind-interfaces --user=root';
    await lab.run(`ip netns exec world dnsmasq --conf-file=/dev/null ${answers} --address=/example.org/192.0.2.80`);
    for (const [guest, ref] of [
      ['a', a],
      ['b', b],
    ] as const) {
      await lab.networks(uplink).apply(ref, networkSpec(lease(10)), never);
      await lab.plug(guest, ref, lease(10).mac);
      expect(await lab.dhcp(guest)).toContain('10.77.1.10');
    }
  });
  afterAll(() => lab?.close());

  it('leads two networks with the same addresses into the world, and their names too', async () => {
    expect(await lab.reaches('a', '203.0.113.2')).toBe(true);
    expect(await lab.reaches('b', '203.0.113.2')).toBe(true);
    expect(await lab.lookup('a', 'example.org')).toContain('192.0.2.80');
  });

  it('does not lead to the node, denied ranges or other routers', async () => {
    expect(await lab.ping('a', '203.0.113.1')).toBe(false);
    expect(await lab.ping('a', '10.9.0.1')).toBe(false);
    expect(await lab.ping('a', '198.51.100.7')).toBe(false);
    const pool = await lab.sh("ip -4 -br addr | awk '/^u[0-9a-f]/ {print $3}' | cut -d/ -f1");
    const outer = pool.trim().split('\n');
    expect(outer).toHaveLength(2);
    for (const address of outer) expect(await lab.ping('a', address), address).toBe(false);
  }, 20_000);

  it('lets nobody in', async () => {
    await lab.run('ip -n world route add 100.64.0.0/10 via 203.0.113.1');
    const wan = await lab.run(`ip -n ${namespaceName(lab.installation, a.id)} -4 -br addr show wan`);
    const inner = wan.split(/[ /]+/).at(2) ?? '';
    expect(inner).toMatch(/^100\./);
    expect(await lab.ping('world', inner)).toBe(false);
  });

  it('knows no back door by the MAC of the bridge', async () => {
    const bridge = bridgeName(lab.installation, a.id);
    const mac = (await lab.run(`cat /sys/class/net/${bridge}/address`)).trim();
    await lab.run(`ip -n a neigh replace 10.77.1.99 lladdr ${mac} dev eth0 nud permanent`);
    await lab.run('ip -n a route replace 203.0.113.1 via 10.77.1.99');
    // The answer would go elsewhere, so what arrives is counted.
    await lab.sh(`nft 'add table ip probe; add chain ip probe in { type filter hook input priority -300; };
      add rule ip probe in iifname "${bridge}" counter'`);
    expect(await lab.ping('a', '203.0.113.1')).toBe(false);
    expect(await lab.run('nft list table ip probe')).toContain('packets 0 ');
    await lab.run('nft delete table ip probe');
  });

  it('is closed again with the last network', async () => {
    const forwarding = () => lab.run('sysctl -n net.ipv4.conf.up0.forwarding');
    expect((await forwarding()).trim()).toBe('1');
    await lab.unplug('a');
    await lab.unplug('b');
    await lab.networks(uplink).remove(a, never);
    expect((await forwarding()).trim()).toBe('1');
    await lab.networks(uplink).remove(b, never);
    expect((await forwarding()).trim()).toBe('0');
    expect(await lab.run('nft list ruleset')).toBe('');
    expect(await lab.sh('ls /sys/class/net')).toBe('lo\nup0\n');
  });
});
