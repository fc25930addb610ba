/**
 * An agent that dies at any command of a change or a removal, before or after the command's effect: the next agent makes
 * it whole, and nothing is left when the network goes.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NetworkSpec, Ref } from '#libs/drivers/contract';
import { canHost } from '#libs/drivers/host';
import { Lab, lease, networkRef, networkSpec, never } from './lab.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: networks of agents that die: ${ability.reason}`);

/** $1 is `before` or `after`; the command of which the count in `left` reaches 0 fails, and all that come then. */
const dying = (dir: string) => `#!/bin/sh
when=$1; shift
left=$(cat ${dir}/left)
[ "$left" -gt 0 ] || exit 99
echo $((left - 1)) > ${dir}/left
[ "$left" -gt 1 ] && exec "$@"
[ $when = after ] && "$@" > /dev/null
exit 99
`;

const key = (n: number) => Buffer.alloc(32, n).toString('base64');
const full = (n: number): NetworkSpec => ({
  ...networkSpec({ ...lease(10 + n, 'web'), ip6: `fd77:1::${n + 16}` }, { ...lease(20), ip6: 'fd77:1::20' }),
  subnet6: n === 0 ? 'fd77:1::/64' : 'fd77:1::/112',
  gateway6: 'fd77:1::1',
  mtu: 1400 + n,
  publicAddresses: [{ publicIp: `203.0.113.${10 + n}`, ip: `10.77.1.${10 + n}` }],
  forwards: [{ publicIp: `203.0.113.${20 + n}`, protocol: 'tcp', port: 80, ip: '10.77.1.20', targetPort: 80 }],
  firewall: [
    { id: 'one', direction: 'in', action: 'deny', protocol: 'udp', ports: [], remotes: [`10.77.1.${n}`], guests: null },
  ],
  wireguard: {
    privateKey: key(1),
    port: 5000 + n,
    address: '10.99.0.1/24',
    peers: [{ publicKey: key(2 + n), presharedKey: null, allowedIps: [`10.99.0.${2 + n}/32`] }],
  },
});

describe.skipIf(!ability.ok)('a network whose agent dies', () => {
  let lab: Lab;
  const uplink = { interface: 'up0' };
  const outside = () =>
    lab.sh(
      'ls /sys/class/net; ip netns; nft list ruleset; ip neigh show proxy; ip route; cat /proc/sys/net/ipv4/conf/up0/forwarding',
    );
  const rules = async () => (await lab.run(`nft list table ip rz_${lab.installation}`)).replaceAll(/counter .*/g, '');
  const left = async () =>
    (
      await lab.sh(`pgrep -f '${lab.stateDir}[/]' || true; pgrep -f '[w]ireguard-go w${lab.installation}' || true`)
    ).trim();
  /** An agent that dies at its `count`th command. Gives whether it did. */
  const agent = async (
    when: 'before' | 'after',
    count: number,
    work: 'apply' | 'remove',
    ref: Ref,
    spec: NetworkSpec,
  ) => {
    await writeFile(join(lab.dir, 'left'), String(count));
    const networks = lab.networks(uplink, [join(lab.dir, 'dying'), when]);
    const result = work === 'apply' ? networks.apply(ref, spec, never) : networks.remove(ref, never);
    return result.then(
      () => false,
      () => true,
    );
  };

  beforeAll(async () => {
    lab = await Lab.open('rz-crash', true);
    lab.metadataSocket = join(lab.dir, 'metadata.sock');
    await writeFile(join(lab.dir, 'dying'), dying(lab.dir), { mode: 0o755 });
  });
  afterAll(() => lab?.close());

  // Every 13th command, before and after its effect by turns.
  it('while it is made, changed or removed, is whole with the next agent and leaves nothing', async () => {
    const empty = await outside();
    const sound = lab.networks(uplink);
    const ref = networkRef('acme');
    const neighbour = networkRef('globex');
    let deaths = 0;
    for (const [work, from] of [
      ['apply', null],
      ['apply', full(0)],
      ['remove', full(0)],
    ] as const) {
      for (let count = 1, died = true; died; count += 13) {
        if (from) await sound.apply(ref, from, never);
        died = await agent(count % 2 ? 'before' : 'after', count, work, ref, full(1));
        if (died) deaths++;
        const where = `${work} of ${from ? 'one that is there' : 'a new one'}, command ${count}`;
        if (count % 4 < 2) {
          await sound.apply(ref, full(1), never);
          const now = await rules();
          expect(now, where).toContain('203.0.113.11, 203.0.113.21');
          expect(now, where).not.toMatch(/203\.0\.113\.[12]0/);
          expect(now, where).toContain('elements = { 5001 :');
          expect((await lab.run('ip neigh show proxy')).match(/203\.0\.113\.[12]1/g), where).toHaveLength(2);
          const guard = await lab.run(`nft list table bridge rz_${lab.installation}`);
          expect(guard, where).not.toContain('10.77.1.10');
          expect((await sound.inventory())[0]?.damaged, where).toBeUndefined();
        }
        await sound.remove(ref, never);
        expect(await outside(), where).toBe(empty);
        expect(await left(), where).toBe('');
      }
    }
    expect(deaths).toBeGreaterThan(8);
    // And beside another network, which keeps what is its own.
    await sound.apply(neighbour, full(0), never);
    await agent('after', 30, 'apply', ref, full(1));
    await sound.remove(ref, never);
    expect(await rules()).toContain('203.0.113.10, 203.0.113.20');
    expect(await rules()).not.toContain('203.0.113.11');
    await sound.remove(neighbour, never);
    expect(await outside()).toBe(empty);
  }, 240_000);
});
