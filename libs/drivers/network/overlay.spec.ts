/** Networks that span two hosts: who reaches whom, by which way, and that nothing else crosses the wire. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Ref } from '#libs/drivers/contract';
import { canHost, machineState } from '#libs/drivers/host';
import { lease, networkRef, networkSpec, never } from './lab.js';
import { type LabPair, openPair, type Side, type Spanning, strangerAddress, toldTo, underlayOf } from './lab-pair.js';
import { overlayName, tableName } from './names.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: networks across nodes: ${ability.reason}`);

const sides = ['a', 'b'] as const;

describe.skipIf(!ability.ok)('a network on two nodes', () => {
  let pair: LabPair;
  let before: Record<string, string>;
  const outside = (side: Side) => pair[side].sh('ls /sys/class/net; ip netns; nft list ruleset; ip neigh show proxy');

  beforeAll(async () => {
    before = await machineState();
    pair = await openPair();
  }, 60_000);
  afterAll(async () => {
    await pair?.close();
    expect(await machineState()).toEqual(before);
  });

  const tell = async (ref: Ref, spanning: Spanning, order: readonly Side[] = sides) => {
    for (const side of order) await pair.networks(side).apply(ref, toldTo(side, spanning), never);
  };
  const removeAll = async (ref: Ref) => {
    for (const side of sides) await pair.networks(side).remove(ref, never);
  };
  /** Counts frames that leave for the other node though their destination is not there. */
  const watch = (side: Side, there: readonly string[]) =>
    pair[side].sh(`nft -f - <<'END'
      table bridge watch {
        chain out {
          type filter hook postrouting priority 0; policy accept;
          oifname "v${pair.a.installation}*" ether daddr != { ${there.join(', ')} } counter comment "stray"
          oifname "v${pair.a.installation}*" arp operation request ether daddr ff:ff:ff:ff:ff:ff counter
        }
      }
END`);
  const strays = async (side: Side): Promise<number[]> => {
    const rules = await pair[side].run('nft list table bridge watch');
    return [...rules.matchAll(/counter packets (\d+)/g)].map(([, count]) => Number(count));
  };
  /** Packets that came to the port of other nodes and were no node's. */
  const refused = async (side: Side): Promise<number> => {
    const chain = await pair[side].run(`nft list chain ip ${tableName(pair.a.installation)} gate`);
    return Number(/counter packets (\d+) bytes \d+ drop/.exec(chain)?.[1]);
  };

  const spec6 = {
    ...networkSpec({ ...lease(10, 'web'), ip6: null }, { ...lease(11, 'db'), ip6: null }),
    subnet6: 'fd77:5::/64',
    gateway6: 'fd77:5::1',
  };
  spec6.leases = [
    { ...lease(10, 'web'), ip6: 'fd77:5::5054:ff:fe00:10a' },
    { ...lease(11, 'db'), ip6: 'fd77:5::5054:ff:fe00:10b' },
  ];

  it('gives its guests addresses, names and each other on both, and is gone without a trace', async () => {
    const empty = { a: await outside('a'), b: await outside('b') };
    const ref = networkRef('acme');
    await tell(ref, { spec: spec6, vni: 5001, router: 'a', places: { '10.77.1.10': 'a', '10.77.1.11': 'b' } });
    await pair.a.plug('web', ref, lease(10).mac);
    await pair.b.plug('db', ref, lease(11).mac);
    expect(await pair.a.dhcp('web')).toBe('10.77.1.10 web 10.77.1.1 1450');
    expect(await pair.b.dhcp('db')).toBe('10.77.1.11 db 10.77.1.1 1450');
    // With the broadcast flag, too: the answer is for all of the link then.
    expect(await pair.b.dhcp('db', 10, ['-B'])).toBe('10.77.1.11 db 10.77.1.1 1450');
    expect(await pair.a.reaches('web', '10.77.1.11')).toBe(true);
    expect(await pair.b.reaches('db', '10.77.1.10')).toBe(true);
    expect(await pair.b.reaches('db', '10.77.1.1')).toBe(true);
    expect(await pair.b.lookup('db', 'web.lab.example')).toContain('10.77.1.10');
    expect(await pair.b.ownAddress6('db')).toBe('fd77:5::5054:ff:fe00:10b');
    expect(await pair.a.ownAddress6('web')).toBe('fd77:5::5054:ff:fe00:10a');
    expect(await pair.b.reaches('db', 'fd77:5::5054:ff:fe00:10a')).toBe(true);
    expect(await pair.b.reaches('db', 'fd77:5::1')).toBe(true);
    // As large as it may be, in one piece.
    expect(await pair.b.run('ip netns exec db busybox ping -c 1 -W 2 -s 1422 10.77.1.10')).toContain('1430 bytes');
    for (const side of sides) expect((await pair.networks(side).inventory())[0]?.damaged).toBeFalsy();
    await pair.a.unplug('web');
    await pair.b.unplug('db');
    await removeAll(ref);
    for (const side of sides) expect(await outside(side)).toBe(empty[side]);
  }, 60_000);

  it('sends over the wire what has its destination there, and nothing else', async () => {
    const ref = networkRef('acme');
    await tell(ref, { spec: spec6, vni: 5002, router: 'a', places: { '10.77.1.10': 'a', '10.77.1.11': 'b' } });
    await pair.b.plug('db', ref, lease(11).mac);
    expect(await pair.b.dhcp('db')).toContain('10.77.1.11');
    expect(await pair.b.ownAddress6('db')).not.toBe('');
    expect(await pair.b.reaches('db', '10.77.1.1')).toBe(true);
    await pair.b.run('ip -n db neigh flush all');
    await watch('b', [spec6.gatewayMac, lease(10).mac]);
    // Who is there? Of somebody elsewhere the bridge itself knows, of nobody nobody does.
    expect(await pair.b.arping('db', '10.77.1.10')).toBe(lease(10).mac);
    expect(await pair.b.arping('db', '10.77.1.99')).toBe('');
    for (const address of ['10.77.1.255', '224.0.0.251', 'ff02::1%eth0', 'fd77:5::99']) {
      expect(await pair.b.ping('db', address), address).toBe(false);
    }
    // A destination that nobody has.
    await pair.b.run('ip -n db neigh replace 10.77.1.98 lladdr 52:54:00:00:09:98 dev eth0 nud permanent');
    expect(await pair.b.ping('db', '10.77.1.98')).toBe(false);
    expect(await strays('b')).toEqual([0, 0]);
    // That it would have been seen.
    await pair.b.sh(`bridge link set dev ${overlayName(pair.a.installation, ref.id)} bcast_flood on flood on`);
    expect(await pair.b.ping('db', '10.77.1.98')).toBe(false);
    expect((await strays('b'))[0]).toBeGreaterThan(0);
    await pair.b.run('nft delete table bridge watch');
    await pair.b.unplug('db');
    await removeAll(ref);
  }, 60_000);

  it('takes frames of its own nodes only, and of their guests only what is theirs', async () => {
    const [ref, other] = [networkRef('acme'), networkRef('globex')];
    const spec = networkSpec(lease(10), lease(11), lease(12));
    const places: Spanning['places'] = { '10.77.1.10': 'a', '10.77.1.11': 'b', '10.77.1.12': 'a' };
    const spanning: Spanning = { spec, vni: 5003, router: 'a', places };
    await tell(ref, spanning);
    // The same subnet of another tenant, here and on a node that is not a.
    const elsewhere = toldTo('b', { ...spanning, vni: 5004, router: 'b', places: {} });
    const nodes = [{ address: '10.200.0.77', port: 4789 }];
    await pair.networks('b').apply(other, { ...elsewhere, overlay: { ...elsewhere.overlay!, nodes } }, never);
    await pair.a.plug('one', ref, lease(10).mac);
    await pair.b.plug('two', ref, lease(11).mac);
    await pair.b.plug('theirs', other, lease(11).mac);
    for (const [side, guest, n] of [['a', 'one', 10] as const, ['b', 'two', 11] as const, ['b', 'theirs', 11] as const])
      await pair[side].address(guest, `10.77.1.${n}/24`);
    await pair.b.serve('two', 80);
    await pair.b.serve('theirs', 80);
    expect(await pair.a.get('one', '10.77.1.11')).toContain('two sees 10.77.1.10');
    expect(await refused('b')).toBe(0);
    // Somebody else on the wire, as a guest of node a; and a node, for a network that it does not have.
    const forge = async (enter: string, vni: number, from: string, n: number) => {
      await pair.a.sh(
        `${enter} ip link add forged type vxlan id ${vni} local ${from} remote ${underlayOf.b} dstport 4789`,
      );
      await pair.a.sh(`${enter} ip link set forged address ${lease(n).mac} up`);
      await pair.a.sh(`${enter} ip addr add 10.77.1.${n}/24 dev forged`);
      await pair.a.sh(`${enter} ip neigh replace 10.77.1.11 lladdr ${lease(11).mac} dev forged nud permanent`);
      const answer = await pair.a.sh(`${enter} busybox ping -c 2 -W 1 -I forged 10.77.1.11 || true`);
      await pair.a.sh(`${enter} ip link del forged`);
      return answer;
    };
    expect(await forge('ip netns exec stranger', 5003, strangerAddress, 10)).toContain(' 0 packets received');
    const byStranger = await refused('b');
    expect(byStranger).toBeGreaterThan(1);
    expect(await forge('', 5004, underlayOf.a, 10)).toContain(' 0 packets received');
    expect(await refused('b')).toBeGreaterThan(byStranger + 1);
    // A node that lets its guest be somebody else.
    await pair.a.plug('evil', ref, lease(12).mac, 'unguarded');
    await pair.a.address('evil', '10.77.1.12/24');
    expect(await pair.a.get('evil', '10.77.1.11')).toContain('two sees 10.77.1.12');
    await pair.a.address('evil', '10.77.1.10/24');
    expect(await pair.a.ping('evil', '10.77.1.11')).toBe(false);
    for (const guest of ['one', 'evil']) await pair.a.unplug(guest);
    for (const guest of ['two', 'theirs']) await pair.b.unplug(guest);
    await pair.networks('b').remove(other, never);
    await removeAll(ref);
  }, 60_000);
});
