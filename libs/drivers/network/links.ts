/**
 * The links of a network: its bridge, its router's namespace and the pair of ends between the two. All of it by `ip`,
 * converging from whatever is there. No address of this machine is ever put on the bridge.
 */
import { DriverError, type Ref } from '#libs/drivers/contract';
import { CommandError, type Runner } from '#libs/drivers/host';
import {
  bridgeAlias,
  bridgeMac,
  bridgeName,
  linkPrefix,
  namespaceName,
  parseBridgeAlias,
  routerPortName,
} from './names.js';
import type { CheckedNetwork } from './network-spec.js';

export interface Link {
  ifname: string;
  address?: string;
  /** `ether`: with ARP. */
  link_type?: string;
  mtu: number;
  ifalias?: string;
  flags: string[];
  master?: string;
  addr_info?: { family: string; local: string; prefixlen: number }[];
}

/** Name of the router's end of a network, inside its namespace. */
export const lan = 'lan';

/** A link with its addresses, or null. `namespace`: where to look; undefined: where the agent is. */
export async function findLink(runner: Runner, name: string, namespace?: string): Promise<Link | null> {
  try {
    const where = namespace === undefined ? [] : ['-n', namespace];
    const links = JSON.parse(await runner.run(['ip', ...where, '-j', 'addr', 'show', 'dev', name])) as Link[];
    return links.find((link) => link.ifname === name) ?? null;
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** Runs lines of `ip -batch`, each an array of words; stops at the first that fails. */
export async function ipBatch(runner: Runner, lines: readonly string[][], namespace?: string): Promise<void> {
  const where = namespace === undefined ? [] : ['-n', namespace];
  const input = lines.map((words) => `${words.join(' ')}\n`).join('');
  await runner.run(['ip', ...where, '-batch', '-'], { input });
}

/** Deletes a link; none is success. */
export async function deleteLink(runner: Runner, name: string): Promise<void> {
  try {
    await runner.run(['ip', 'link', 'del', 'dev', name]);
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}

export function isMissing(error: unknown): boolean {
  return (
    error instanceof CommandError &&
    /does not exist|Cannot find device|No such file or directory|No such device/.test(error.stderr)
  );
}

/**
 * Bridge without addresses or spanning tree, and without IPv6 unless it `isAnswering` for what is on other nodes; its
 * name, and whether it was made just now. Throws `name_collision` when the short name is another network's.
 */
export async function ensureBridge(
  runner: Runner,
  installation: string,
  ref: Ref,
  mtu: number,
  isAnswering = false,
): Promise<{ name: string; isNew: boolean }> {
  const name = bridgeName(installation, ref.id);
  const found = await findLink(runner, name);
  if (!found) await runner.run(['ip', 'link', 'add', 'name', name, 'type', 'bridge', 'stp_state', '0']);
  const owner = parseBridgeAlias(installation, found?.ifalias);
  if (owner && owner.id !== ref.id) {
    throw new DriverError('name_collision', `The bridge ${name} belongs to network ${owner.id}.`, { permanent: true });
  }
  const isNew = found === null;
  if (!isAnswering) await runner.run(['sysctl', '-q', '-w', `net/ipv6/conf/${name}/disable_ipv6=1`]);
  const mac = bridgeMac(ref.id);
  await ipBatch(runner, [
    // Otherwise it takes that of a port, and forgets whose address is elsewhere whenever ports come and go.
    ...(found?.address === mac ? [] : [['link', 'set', 'dev', name, 'address', mac]]),
    ['link', 'set', 'dev', name, 'alias', bridgeAlias(installation, ref)],
    ['link', 'set', 'dev', name, 'type', 'bridge', 'forward_delay', '0', 'mcast_snooping', '0'],
    ['link', 'set', 'dev', name, 'mtu', String(mtu), 'up'],
  ]);
  return { name, isNew };
}

/** Puts ports that are there but on no bridge (theirs was made anew under running machines) back on it. */
export async function adoptPorts(runner: Runner, bridge: string, ports: ReadonlySet<string>): Promise<void> {
  const links = JSON.parse(await runner.run(['ip', '-j', 'link', 'show'])) as Link[];
  const loose = links.filter((link) => ports.has(link.ifname) && link.master === undefined);
  await ipBatch(
    runner,
    loose.map(({ ifname }) => ['link', 'set', 'dev', ifname, 'master', bridge, 'up']),
  );
}

/** The router's namespace, made anew when its name is there but leads nowhere. Returns its name. */
export async function ensureNamespace(runner: Runner, installation: string, id: string): Promise<string> {
  const name = namespaceName(installation, id);
  const works = () =>
    runner.run(['ip', '-n', name, 'link', 'set', 'lo', 'up']).then(
      () => true,
      (error: unknown) => {
        if (error instanceof CommandError) return false;
        throw error;
      },
    );
  if (!(await works())) {
    await deleteNamespace(runner, name);
    await runner.run(['ip', 'netns', 'add', name]);
    await runner.run(['ip', '-n', name, 'link', 'set', 'lo', 'up']);
  }
  const settings = [
    'net/ipv4/ip_forward=1',
    // What forwards it asks no router for itself. Which links have IPv6 is said at each.
    'net/ipv6/conf/all/forwarding=1',
    'net/ipv6/conf/default/disable_ipv6=1',
    'net/ipv4/conf/all/rp_filter=1',
    'net/ipv4/conf/all/send_redirects=0',
    'net/ipv4/conf/default/send_redirects=0',
  ];
  await runner.run(['ip', 'netns', 'exec', name, 'sysctl', '-q', '-w', ...settings]);
  return name;
}

/** Takes a namespace's name away; what runs in it must have been ended. None is success. */
export async function deleteNamespace(runner: Runner, name: string): Promise<void> {
  try {
    await runner.run(['ip', 'netns', 'del', name]);
  } catch (error) {
    if (!isMissing(error)) throw error;
  }
}

/** The pair of ends between bridge and namespace; the inner one is as the caller makes it. */
export async function ensurePortPair(runner: Runner, installation: string, id: string, mtu: number): Promise<void> {
  const port = routerPortName(installation, id);
  const namespace = namespaceName(installation, id);
  if (!(await findLink(runner, lan, namespace)) || !(await findLink(runner, port))) {
    await deleteLink(runner, port);
    const pair = ['ip', 'link', 'add', 'name', port, 'type', 'veth', 'peer', 'name', lan, 'netns', namespace];
    await runner.run(pair);
  }
  await runner.run(['sysctl', '-q', '-w', `net/ipv6/conf/${port}/disable_ipv6=1`]);
  const set = ['link', 'set', 'dev', port, 'mtu', String(mtu), 'master', bridgeName(installation, id), 'up'];
  await ipBatch(runner, [set]);
}

/** The pair of ends between bridge and router, with the gateway's MAC and addresses on the router's; `more`: others. */
export async function ensureRouterPort(
  runner: Runner,
  installation: string,
  id: string,
  spec: CheckedNetwork,
  more: readonly string[],
): Promise<void> {
  const namespace = namespaceName(installation, id);
  await ensurePortPair(runner, installation, id, spec.mtu);
  const wanted = [`${spec.gateway}/${spec.prefixLength}`, ...more];
  if (spec.ipv6) wanted.push(`${spec.ipv6.gateway}/${spec.ipv6.prefixLength}`);
  // The gateway is where it is, whoever else says so: no waiting for an answer before its addresses count. Who has them
  // from another node's router is told when the link comes up here (arp_notify, ndisc_notify).
  const settings6 = ['accept_dad=0', 'accept_ra=0', 'ndisc_notify=1', `disable_ipv6=${spec.ipv6 ? 0 : 1}`];
  const settings = [
    ...settings6.map((setting) => `net/ipv6/conf/${lan}/${setting}`),
    ...['send_redirects=0', 'arp_notify=1'].map((setting) => `net/ipv4/conf/${lan}/${setting}`),
  ];
  await runner.run(['ip', 'netns', 'exec', namespace, 'sysctl', '-q', '-w', ...settings]);
  // Only now: without IPv6 its addresses are gone.
  const inner = await findLink(runner, lan, namespace);
  const set = ['link', 'set', 'dev', lan, 'address', spec.gatewayMac, 'mtu', String(spec.mtu)];
  await ipBatch(runner, [set, ...addressLines(lan, inner, wanted), ['link', 'set', 'dev', lan, 'up']], namespace);
}

/** Lines for ipBatch that leave a link with just these addresses, beside its link-local one. `link`: as it is now. */
export function addressLines(name: string, link: Link | null, wanted: readonly string[]): string[][] {
  const has = (link?.addr_info ?? [])
    .filter(({ local }) => !local.startsWith('fe80:'))
    .map(({ local, prefixlen }) => `${local}/${prefixlen}`);
  const stale = has.filter((address) => !wanted.includes(address)).map((address) => ['del', address, 'dev', name]);
  const missing = wanted
    .filter((address) => !has.includes(address))
    .map((address) => ['replace', address, 'dev', name]);
  const noWait = missing.map((words) => (words[1]?.includes(':') ? [...words, 'nodad'] : words));
  return [...stale, ...noWait].map((words) => ['addr', ...words]);
}

/** Every network whose bridge is here, by the alias on it. */
export async function bridgesHere(runner: Runner, installation: string): Promise<Ref[]> {
  const links = JSON.parse((await runner.run(['ip', '-j', 'link', 'show', 'type', 'bridge'])) || '[]') as Link[];
  return links
    .filter((link) => link.ifname?.startsWith(linkPrefix('b', installation)))
    .flatMap((link) => parseBridgeAlias(installation, link.ifalias) ?? []);
}
