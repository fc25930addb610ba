/**
 * How frames of a network get to its other nodes: a VXLAN port of the bridge that knows, from the control plane, which
 * MAC is on which node, and learns and floods nothing. ARP and neighbour discovery for what is elsewhere are answered by
 * the bridge, which knows the addresses; the one thing that goes to all nodes is what the router tells all guests of
 * IPv6 (RFC 4861 §6.2.4), in a copy for each.
 */
import { DriverError, type MachineUnderlay } from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { isIpv4Text } from './addresses.js';
import { deleteLink, findLink, ipBatch, isMissing, type Link } from './links.js';
import { bridgeName, overlayName } from './names.js';
import type { CheckedNetwork } from './network-spec.js';
import { overheadBytes, remoteEnds } from './overlay-spec.js';

/** Where this machine meets the other nodes. */
export interface Underlay {
  address: string;
  /** UDP; default: VXLAN's own, 4789 (RFC 7348 §8). */
  port?: number;
  /** The only link by which the other nodes' frames come in; its MTU counts. Default: any; the MTU of the address's. */
  interface?: string;
}

const vxlanPort = 4789;

/** All guests of a network that have IPv6 (RFC 2464 §7). */
const allNodesMac = '33:33:00:00:00:01';

interface VxlanLink extends Link {
  linkinfo?: { info_data?: { id?: number; local?: string; port?: number; learning?: boolean } };
}

interface Forwarding {
  mac: string;
  dst?: string;
  port?: number;
  master?: string;
  state?: string;
  flags?: string[];
}

/**
 * Makes the port and its entries as the spec has them, after `beforeEntries`. Undo: removeOverlay. Throws `underlay_missing`,
 * `underlay_mtu`.
 */
export async function applyOverlay(
  runner: Runner,
  installation: string,
  id: string,
  spec: CheckedNetwork,
  underlay: Underlay | undefined,
  beforeEntries: () => Promise<void> = async () => undefined,
): Promise<void> {
  const { overlay } = spec;
  if (!overlay) return removeOverlay(runner, installation, id);
  await refuseNarrow(runner, spec.mtu, overlay.address, underlay?.interface);
  const name = overlayName(installation, id);
  const bridge = bridgeName(installation, id);
  await ensurePort(runner, name, overlay);
  await runner.run(['sysctl', '-q', '-w', `net/ipv6/conf/${name}/disable_ipv6=1`]);
  await ipBatch(runner, [['link', 'set', 'dev', name, 'mtu', String(spec.mtu), 'master', bridge, 'up']]);
  const isSpeaker = overlay.router === null && spec.ipv6 !== null;
  const flags = { learning: 'off', flood: 'off', bcast_flood: 'off', mcast_flood: isSpeaker ? 'on' : 'off' };
  const words = Object.entries({ ...flags, neigh_suppress: 'on' }).flat();
  await runner.run(['bridge', 'link', 'set', 'dev', name, ...words]);
  await letBridgeAnswer(runner, bridge, spec.ipv6 !== null);
  await beforeEntries();
  await applyForwarding(runner, name, spec, isSpeaker);
  await applyNeighbours(runner, bridge, spec);
}

/** Undo of applyOverlay; nothing there is success. */
export async function removeOverlay(runner: Runner, installation: string, id: string): Promise<void> {
  await deleteLink(runner, overlayName(installation, id));
  const bridge = bridgeName(installation, id);
  if (!(await findLink(runner, bridge))) return;
  await runner.run(['ip', 'neigh', 'flush', 'dev', bridge, 'nud', 'permanent']);
  await runner.run(['sysctl', '-q', '-w', `net/ipv6/conf/${bridge}/disable_ipv6=1`]);
}

/** Names of the VXLAN ports that are here. */
export async function overlaysHere(runner: Runner): Promise<ReadonlySet<string>> {
  const links = JSON.parse((await runner.run(['ip', '-j', 'link', 'show', 'type', 'vxlan'])) || '[]') as Link[];
  return new Set(links.flatMap(({ ifname }) => ifname ?? []));
}

/** Throws for an address or a link that cannot stand in a rule. */
export function checkUnderlay({ address, interface: link, port }: Underlay): void {
  if (!isIpv4Text(address)) throw new Error('the underlay address is no IPv4 address');
  if (link !== undefined && !/^[a-zA-Z0-9][a-zA-Z0-9._-]{0,14}$/.test(link))
    throw new Error('the underlay is no interface name');
  if (port !== undefined && (port < 1 || port > 65_535)) throw new Error('the underlay port is no port');
}

/** The underlay as others are told of it. */
export async function machineUnderlay(runner: Runner, underlay: Underlay): Promise<MachineUnderlay> {
  const { address, port = vxlanPort } = underlay;
  return { address, port, networkMtu: await underlayMtu(runner, underlay) };
}

/** The widest link that an underlay carries inside; null: its address is on no link of this machine. */
async function underlayMtu(runner: Runner, { address, interface: link }: Underlay): Promise<number | null> {
  const text = await runner.run(['ip', '-j', 'addr', 'show', 'to', `${address}/32`]);
  const links = (JSON.parse(text || '[]') as Link[]).filter(({ ifname }) => ifname !== undefined);
  if (links.length === 0) return null;
  const carrier = link === undefined ? links[0]! : await findLink(runner, link);
  return carrier && carrier.mtu - overheadBytes;
}

async function refuseNarrow(runner: Runner, mtu: number, address: string, link: string | undefined): Promise<void> {
  const most = await underlayMtu(runner, { address, interface: link });
  if (most === null) {
    const where = link === undefined ? 'no link of this machine' : `no link of this machine, or there is no ${link}`;
    throw new DriverError('underlay_missing', `The underlay address ${address} is on ${where}.`);
  }
  if (mtu <= most) return;
  const message = `The underlay's MTU carries networks of at most ${most}, and this one's is ${mtu}.`;
  throw new DriverError('underlay_mtu', message);
}

async function ensurePort(
  runner: Runner,
  name: string,
  overlay: NonNullable<CheckedNetwork['overlay']>,
): Promise<void> {
  const { vni, address, port } = overlay;
  const found = await findPort(runner, name);
  const data = found?.linkinfo?.info_data;
  const isRight = data?.id === vni && data.local === address && data.port === port && data.learning === false;
  if (isRight) return;
  if (found) await deleteLink(runner, name);
  const words = ['id', String(vni), 'local', address, 'dstport', String(port), 'nolearning'];
  await runner.run(['ip', 'link', 'add', 'name', name, 'type', 'vxlan', ...words]);
}

async function findPort(runner: Runner, name: string): Promise<VxlanLink | null> {
  try {
    const links = JSON.parse(await runner.run(['ip', '-d', '-j', 'link', 'show', 'dev', name])) as VxlanLink[];
    return links.find((link) => link.ifname === name) ?? null;
  } catch (error) {
    if (isMissing(error)) return null;
    throw error;
  }
}

/** The bridge keeps neighbours of IPv6 only while it has IPv6 itself; it still gets no address and listens to nobody. */
async function letBridgeAnswer(runner: Runner, bridge: string, hasIpv6: boolean): Promise<void> {
  await ipBatch(runner, [['link', 'set', 'dev', bridge, 'addrgenmode', 'none']]);
  const settings = ['accept_ra=0', 'forwarding=0', `disable_ipv6=${hasIpv6 ? 0 : 1}`];
  await runner.run(['sysctl', '-q', '-w', ...settings.map((setting) => `net/ipv6/conf/${bridge}/${setting}`)]);
}

/**
 * Which MAC is where: in the bridge, so that frames for it go nowhere else, and in the port, with the node. Entries are
 * static but not sticky: a machine that has come here and sends is here from its first frame on.
 */
async function applyForwarding(runner: Runner, name: string, spec: CheckedNetwork, isSpeaker: boolean): Promise<void> {
  const overlay = spec.overlay!;
  const has = JSON.parse((await runner.run(['bridge', '-j', 'fdb', 'show', 'dev', name])) || '[]') as Forwarding[];
  const ends = new Map(remoteEnds(spec).map(({ mac, at }) => [mac, at]));
  const text = (dst: string, port: number) => `${dst} port ${port}`;
  const wanted = new Set([...ends].map(([mac, at]) => `${mac} ${text(at.address, at.port)}`));
  if (isSpeaker) for (const at of overlay.nodes) wanted.add(`${allNodesMac} ${text(at.address, at.port)}`);
  const inPort = has.filter(({ dst }) => dst !== undefined);
  const inBridge = new Set(has.filter(({ master, state }) => master && state === 'static').map(({ mac }) => mac));
  const lines: string[][] = [];
  const known = new Set<string>();
  for (const { mac, dst, port } of inPort) {
    const entry = `${mac} ${text(dst!, port ?? overlay.port)}`;
    if (wanted.has(entry)) known.add(entry);
    // Another node for the same MAC comes by replacing; a group's copies and what is nowhere go one by one.
    else if (mac === allNodesMac || !ends.has(mac)) {
      lines.push(['fdb', 'del', mac, 'dev', name, 'self', 'dst', dst!, ...(port ? ['port', String(port)] : [])]);
    }
  }
  for (const entry of wanted) {
    if (known.has(entry)) continue;
    const [mac = '', ...to] = entry.split(' ');
    lines.push(['fdb', mac === allNodesMac ? 'append' : 'replace', mac, 'dev', name, 'self', 'dst', ...to]);
  }
  for (const mac of inBridge) if (!ends.has(mac)) lines.push(['fdb', 'del', mac, 'dev', name, 'master']);
  for (const mac of ends.keys()) {
    if (!inBridge.has(mac)) lines.push(['fdb', 'replace', mac, 'dev', name, 'master', 'static']);
  }
  if (lines.length === 0) return;
  await runner.run(['bridge', '-batch', '-'], { input: lines.map((words) => `${words.join(' ')}\n`).join('') });
}

/** What the bridge answers for: the addresses of all that is elsewhere. */
async function applyNeighbours(runner: Runner, bridge: string, spec: CheckedNetwork): Promise<void> {
  const show = ['ip', '-j', 'neigh', 'show', 'dev', bridge, 'nud', 'permanent'];
  const has = JSON.parse((await runner.run(show)) || '[]') as { dst: string; lladdr?: string }[];
  const wanted = new Map(remoteEnds(spec).flatMap(({ mac, addresses }) => addresses.map((ip) => [ip, mac] as const)));
  const right = new Set(has.filter(({ dst, lladdr }) => wanted.get(dst) === lladdr).map(({ dst }) => dst));
  const stale = has.filter(({ dst }) => !wanted.has(dst)).map(({ dst }) => ['neigh', 'del', dst, 'dev', bridge]);
  const missing = [...wanted].filter(([ip]) => !right.has(ip));
  await ipBatch(runner, [
    ...stale,
    ...missing.map(([ip, mac]) => ['neigh', 'replace', ip, 'lladdr', mac, 'dev', bridge, 'nud', 'permanent']),
  ]);
}
