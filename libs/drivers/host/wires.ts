/**
 * Wires between two hosts of namespaces, for tests of what crosses machines: an underlay with a link `und0` in each, and
 * a world outside that both see. The wires lie in the first host and end with it. Not used on real nodes.
 */
import { type Host, worldLink } from './host.js';

/** Where the two hosts meet (of a range that guests never reach). */
export const underlayLink = {
  interface: 'und0',
  first: '10.200.0.1',
  second: '10.200.0.2',
  /** Free for whoever else is put on the wire. */
  stranger: '10.200.0.9',
  prefixLength: 24,
} as const;

/** The second host's address in the world that it shares with the first. */
export const secondInWorld = '203.0.113.3';

const macs = { first: '52:54:00:20:00:01', second: '52:54:00:20:00:02' } as const;

/** The wire is a bridge in the first host, whose own end is that one's link. */
export async function layUnderlay(first: Host, second: Host): Promise<void> {
  const { interface: link, prefixLength } = underlayLink;
  await run(first, `ip link add wire-u netns ${first.pid} type veth peer name ${link} netns ${second.pid}`);
  await run(first, `ip link add ${link} type bridge`);
  await run(first, `ip link set wire-u master ${link} up`);
  for (const [host, which] of [[first, 'first'] as const, [second, 'second'] as const]) {
    await run(host, `ip link set ${link} address ${macs[which]} up`);
    await run(host, `ip addr add ${underlayLink[which]}/${prefixLength} dev ${link}`);
  }
}

/** Lets the second host into the world of the first, which was started with one: its link there becomes a switch of both. */
export async function shareWorld(first: Host, second: Host): Promise<void> {
  const { interface: link, world, prefixLength } = worldLink;
  await run(first, 'ip -n world link set eth0 down');
  await run(first, 'ip -n world link set eth0 name wire-1');
  await run(first, 'ip -n world addr flush dev wire-1');
  await run(first, `ip link add wire-2 netns world type veth peer name ${link} netns ${second.pid}`);
  await run(first, 'ip -n world link add eth0 type bridge');
  for (const wire of ['wire-1', 'wire-2']) await run(first, `ip -n world link set ${wire} master eth0 up`);
  await run(first, 'ip -n world link set eth0 up');
  await run(first, `ip -n world addr add ${world}/${prefixLength} dev eth0`);
  await run(second, `ip addr add ${secondInWorld}/${prefixLength} dev ${link}`);
  await run(second, `ip link set ${link} up`);
  await run(second, `ip route add default via ${world}`);
}

function run(host: Host, words: string): Promise<string> {
  return host.exec(words.split(' '));
}
