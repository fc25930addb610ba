/** A router that moves to another host: how long guests are deaf to it, and where the world looks for its public addresses. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { NetworkSpec, Ref } from '#libs/drivers/contract';
import { canHost, machineState } from '#libs/drivers/host';
import { arpAnnouncement } from './announcer.js';
import { lease, networkRef, networkSpec, never } from './lab.js';
import { type LabPair, openPair, type Side, type Spanning, toldTo } from './lab-pair.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: routers that move: ${ability.reason}`);

const sides = ['a', 'b'] as const;
const publicIp = '203.0.113.64';
const uplink = { interface: 'up0' };

it('an announcement is an ARP request of an address for itself, to all', () => {
  expect(arpAnnouncement('52:54:00:20:00:01', '203.0.113.64').toString('hex')).toBe(
    'ffffffffffff525400200001080600010800060400015254002000' + '01cb007140000000000000cb007140',
  );
});

describe.skipIf(!ability.ok)('a router that moves', () => {
  let pair: LabPair;
  let before: Record<string, string>;
  let ref: Ref;
  const spec: NetworkSpec = {
    ...networkSpec(lease(10, 'web'), lease(11, 'db')),
    publicAddresses: [{ publicIp, ip: '10.77.1.10' }],
  };
  const spanning = (router: Side): Spanning => ({
    ...{ spec, vni: 5001, router },
    places: { '10.77.1.10': 'a', '10.77.1.11': 'b' },
  });

  beforeAll(async () => {
    before = await machineState();
    pair = await openPair(true);
    // As routers are: an entry is believed for long, and an announcement of an address it knows changes it.
    await pair.a.run('ip netns exec world sysctl -q -w net.ipv4.neigh.eth0.base_reachable_time_ms=600000');
  }, 60_000);
  afterAll(async () => {
    await pair?.close();
    expect(await machineState()).toEqual(before);
  });

  const macOf = async (side: Side) => (await pair[side].run('cat /sys/class/net/up0/address')).trim();
  /** Whom the world takes for the owner of the public address. */
  const believed = async () => /lladdr (\S+)/.exec(await pair.a.run(`ip -n world neigh show ${publicIp}`))?.[1];
  /** The old node's second announcement may come after the new one's first; then the new one's second decides. */
  const isFoundAt = async (side: Side) => {
    const mac = await macOf(side);
    await expect.poll(believed, { timeout: 10_000 }).toBe(mac);
  };
  const move = (to: Side, order: readonly Side[] = sides) =>
    Promise.all(order.map((side) => pair.networks(side, uplink).apply(ref, toldTo(side, spanning(to)), never)));

  it('is found by the world at once, though it remembers another node', async () => {
    ref = networkRef('acme');
    await move('a');
    await pair.a.plug('web', ref, lease(10).mac);
    await pair.b.plug('db', ref, lease(11).mac);
    expect(await pair.a.dhcp('web')).toContain('10.77.1.10');
    expect(await pair.b.dhcp('db')).toContain('10.77.1.11');
    await pair.a.serve('web', 80);
    expect(await pair.a.reaches('world', publicIp)).toBe(true);
    expect(await believed()).toBe(await macOf('a'));
    await move('b');
    await isFoundAt('b');
    expect(await pair.a.get('world', publicIp)).toContain('web sees 203.0.113.2');
  }, 60_000);

  /** How long each guest did not hear the gateway while `work` was done. */
  const deafWhile = async (guests: readonly (readonly [Side, string])[], work: () => Promise<unknown>) => {
    const pings = await Promise.all(guests.map(([side, guest]) => pair[side].keepPinging(guest, spec.gateway)));
    await work();
    for (const [side, guest] of guests) expect(await pair[side].reaches(guest, spec.gateway)).toBe(true);
    return Promise.all(pings.map(async (stop) => (await stop()).deafMs));
  };
  const both = [['a', 'web'] as const, ['b', 'db'] as const];

  it('is missed by guests for moments when it moves by order', async () => {
    const rounds: number[][] = [];
    for (const to of ['a', 'b'] as const) rounds.push(await deafWhile(both, () => move(to)));
    console.info(
      `moved by order: guests of a and b were deaf for ${rounds.map((ms) => ms.join(' and ')).join(' ms, then ')} ms`,
    );
    expect(Math.max(...rounds.flat())).toBeLessThan(10_000);
  }, 60_000);

  /** A connection from the world to the guest's public address, which says a number five times a second; gives the last one that came back. */
  const conversation = async () => {
    await pair.a.sh(
      'ip netns exec web setsid -f socat TCP-LISTEN:7,fork,reuseaddr EXEC:cat >/dev/null 2>&1 </dev/null',
    );
    const numbers = 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done';
    const talk = ['ip', 'netns', 'exec', 'world', 'sh', '-c', `${numbers} | socat - TCP4:${publicIp}:7`];
    let text = '';
    pair.a.host.runner.spawn(talk).stdout?.on('data', (data) => (text += data));
    return () => Number(text.trim().split('\n').at(-1));
  };

  it('is missed for less when the new one stands before the old one is told, and keeps connections by a public address', async () => {
    const answered = await conversation();
    await expect.poll(answered, { timeout: 10_000 }).toBeGreaterThan(2);
    const apply = (side: Side) => pair.networks(side, uplink).apply(ref, toldTo(side, spanning('a')), never);
    const deaf = await deafWhile(both, async () => {
      await apply('a');
      // Both have it now; each serves the guests of its own node.
      for (const [side, guest] of both) expect(await pair[side].reaches(guest, spec.gateway)).toBe(true);
      await apply('b');
    });
    console.info(`moved by order, the new one first: guests of a and b were deaf for ${deaf.join(' and ')} ms`);
    expect(Math.max(...deaf)).toBeLessThan(5_000);
    await isFoundAt('a');
    const until = answered() + 10;
    await expect.poll(answered, { timeout: 20_000 }).toBeGreaterThan(until);
    await move('b');
  }, 60_000);

  it('comes up behind a fence without a word of the node that is dead', async () => {
    // b has the router and dies: its links are down, and nobody tells it anything.
    const began = performance.now();
    const [deaf = 0] = await deafWhile([['a', 'web']], async () => {
      for (const link of ['und0', 'up0']) await pair.b.run(`ip link set ${link} down`);
      await pair.networks('a', uplink).apply(ref, toldTo('a', spanning('a')), never);
    });
    console.info(`behind a fence: deaf for ${deaf} ms of ${Math.round(performance.now() - began)} ms`);
    expect(deaf).toBeLessThan(10_000);
    await isFoundAt('a');
    expect(await pair.a.get('world', publicIp)).toContain('web sees 203.0.113.2');
  }, 60_000);
});
