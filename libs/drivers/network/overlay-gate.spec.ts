/**
 * Who can send to the port at which nodes hear each other: no guest, whatever it makes up, and nobody who is not on the
 * underlay, not even under a node's address.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canHost } from '#libs/drivers/host';
import { lease, networkRef, networkSpec, never } from './lab.js';
import { type LabPair, openPair, type Side, toldTo, underlayOf } from './lab-pair.js';
import { tableName } from './names.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: the port between nodes: ${ability.reason}`);

const sides = ['a', 'b'] as const;
const vni = 5001;
const ports = [4789, 4790] as const;

describe.skipIf(!ability.ok)('the port between nodes', () => {
  let pair: LabPair;
  const ref = networkRef('acme');

  beforeAll(async () => {
    pair = await openPair(true);
    const spec = networkSpec(lease(10), lease(11));
    const places = { '10.77.1.10': 'a', '10.77.1.11': 'b' } as const;
    for (const side of sides) {
      const told = toldTo(side, { spec, vni, router: 'a', places });
      await pair.networks(side, { interface: 'up0' }).apply(ref, told, never);
    }
    await pair.a.plug('web', ref, lease(10).mac);
    await pair.b.plug('db', ref, lease(11).mac);
    expect(await pair.a.dhcp('web')).toContain('10.77.1.10');
    expect(await pair.b.dhcp('db')).toContain('10.77.1.11');
  }, 60_000);
  afterAll(() => pair?.close());

  /** Counts what comes to the ports before anything is done with it; of b only what a has sent. */
  const watch = (where: string, from = '') =>
    pair.a.sh(`${where} nft -f - <<'END'
      table ip watch {
        chain in {
          type filter hook prerouting priority -400; policy accept;
          ${ports.map((port) => `${from} udp dport ${port} counter`).join('\n          ')}
        }
      }
END`);
  const seen = async (where: string): Promise<number[]> => {
    const rules = await pair.a.sh(`${where} nft list table ip watch`);
    return [...rules.matchAll(/counter packets (\d+)/g)].map(([, count]) => Number(count));
  };
  const refusedAt = async (side: Side): Promise<number> => {
    const chain = await pair[side].run(`nft list chain ip ${tableName(pair.a.installation)} gate`);
    return Number(/counter packets (\d+) bytes \d+ drop/.exec(chain)?.[1]);
  };
  /** Three packets. */
  const send = (guest: string, address: string, port: number) =>
    pair.a.sh(
      `for i in 1 2 3; do echo hello | ip netns exec ${guest} socat -u - UDP4-DATAGRAM:${address}:${port}; done`,
    );

  it('is closed to guests, on their way to the world, too', async () => {
    const world = 'ip netns exec world';
    await watch(world);
    for (const port of ports) await send('web', '203.0.113.2', port);
    // The other port shows that the guest gets there at all.
    expect(await seen(world)).toEqual([0, 3]);
    await pair.a.sh(`${world} nft delete table ip watch`);
  }, 30_000);

  it('is closed to a guest that plays a node to the other node', async () => {
    const inB = `nsenter -t ${pair.b.host.pid} -n --`;
    await watch(inB, `ip saddr ${underlayOf.a}`);
    expect(await pair.b.reaches('db', '10.77.1.10')).toBe(true);
    const [honest = 0] = await seen(inB);
    expect(honest).toBeGreaterThan(0);
    // Its frames would leave node a under a's address, as all that it sends.
    await pair.a.sh(`ip netns exec web ip link add forged type vxlan id ${vni} remote ${underlayOf.b} dstport 4789 dev eth0
      ip netns exec web ip link set forged up
      ip netns exec web ip addr add 10.99.0.1/24 dev forged
      ip netns exec web ip neigh replace 10.99.0.2 lladdr ${lease(11).mac} dev forged nud permanent`);
    for (const address of [underlayOf.b, underlayOf.a, '203.0.113.1', '203.0.113.3']) {
      await pair.a.sh(`ip netns exec web ip link set forged type vxlan id ${vni} remote ${address}`);
      expect(await pair.a.ping('web', '10.99.0.2')).toBe(false);
    }
    expect((await seen(inB))[0]).toBe(honest);
    // What it sends to its own node is dropped at the gate, the rest before it leaves.
    expect(await refusedAt('a')).toBeGreaterThan(0);
    expect(await refusedAt('b')).toBe(0);
    await pair.a.sh('ip netns exec web ip link del forged');
    await pair.a.sh(`${inB} nft delete table ip watch`);
  }, 30_000);

  it('takes nothing that comes by another link, not even under the address of a node', async () => {
    const world = 'ip netns exec world';
    await pair.a.sh(`${world} ip addr add ${underlayOf.b}/32 dev eth0
      ${world} ip link add forged type vxlan id ${vni} local ${underlayOf.b} remote 203.0.113.1 dstport 4789
      ${world} ip link set forged address ${lease(11).mac} up
      ${world} ip addr add 10.77.1.11/24 dev forged
      ${world} ip neigh replace 10.77.1.10 lladdr ${lease(10).mac} dev forged nud permanent`);
    const before = await refusedAt('a');
    expect(await pair.a.ping('world', '10.77.1.10')).toBe(false);
    expect(await refusedAt('a')).toBeGreaterThan(before);
  }, 30_000);
});
