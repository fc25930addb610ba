/**
 * The way out of one network: a pair of ends between its router and the agent's namespace with two addresses of a
 * private pool; and the way in to it: public addresses are routed to the router, and this machine answers for them on
 * the uplink's link (proxy ARP, RFC 1027), so that nothing of its own ever listens there.
 */
import { createHash } from 'node:crypto';
import type { Runner } from '#libs/drivers/host';
import { addressNumber, addressText, checkCidr } from './addresses.js';
import { deleteLink, findLink, ipBatch, isMissing, type Link } from './links.js';
import { namespaceName, uplinkName } from './names.js';
import { wan } from './router.js';

export interface Uplink {
  /** Interface in the agent's namespace by which guests go out. */
  interface: string;
  /** Resolvers that routers may ask, also where they lie in a denied range. */
  resolvers?: readonly string[];
  /** CIDRs that guests never reach through it, beside deniedByDefault. */
  denied?: readonly string[];
}

/** RFC 6598; two addresses a network. */
export const pool = { cidr: '100.64.0.0/10', first: addressNumber('100.64.0.0', 'pool'), slots: 2 ** 21 };

/** The two ends of a slot: the agent's and the router's. */
export function slotAddresses(slot: number): { outer: string; inner: string } {
  return { outer: addressText(pool.first + 2 * slot), inner: addressText(pool.first + 2 * slot + 1) };
}

/** Throws `invalid_spec` for an interface or range that cannot stand in a rule. */
export function checkUplink(uplink: Uplink): void {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9._-]{0,14}$/.test(uplink.interface)) throw new Error('the uplink is no interface name');
  for (const cidr of uplink.denied ?? []) checkCidr(cidr, 'denied range');
  for (const server of uplink.resolvers ?? []) addressNumber(server, 'resolver');
}

/**
 * The slot of a network in the pool: the one it has, else by its id, else the next that nobody on this machine has.
 * Give the result a place on file before using it.
 */
export async function chooseSlot(runner: Runner, networkId: string, taken: ReadonlySet<number>): Promise<number> {
  const links = JSON.parse(await runner.run(['ip', '-j', '-4', 'addr', 'show'])) as Link[];
  const used = new Set(taken);
  for (const { family, local } of links.flatMap((link) => link.addr_info ?? [])) {
    if (family !== 'inet') continue;
    const slot = Math.floor((addressNumber(local, 'address') - pool.first) / 2);
    if (slot >= 0 && slot < pool.slots) used.add(slot);
  }
  const start = createHash('sha256').update(networkId).digest().readUInt32BE(0) % pool.slots;
  for (let i = 0; i < pool.slots; i++) {
    const slot = (start + i) % pool.slots;
    if (!used.has(slot)) return slot;
  }
  throw new Error(`no pair of addresses is left in ${pool.cidr}`);
}

/** Lets packets that come in by the uplink be forwarded; says first, by `note`, when that was off before. */
export async function enableForwarding(runner: Runner, link: string, note: () => Promise<void>): Promise<void> {
  const setting = `net/ipv4/conf/${link}/forwarding`;
  if ((await runner.run(['sysctl', '-n', setting])).trim() === '1') return;
  await note();
  await runner.run(['sysctl', '-q', '-w', `${setting}=1`]);
}

/** Undo of enableForwarding. An interface that is gone has nothing to undo. */
export async function disableForwarding(runner: Runner, link: string): Promise<void> {
  if (await findLink(runner, link)) await runner.run(['sysctl', '-q', '-w', `net/ipv4/conf/${link}/forwarding=0`]);
}

/** The pair of ends with its addresses, and the router's default route. */
export async function applyUplink(
  runner: Runner,
  installation: string,
  networkId: string,
  slot: number,
): Promise<void> {
  const name = uplinkName(installation, networkId);
  const namespace = namespaceName(installation, networkId);
  const { outer, inner } = slotAddresses(slot);
  if (!(await findLink(runner, name)) || !(await findLink(runner, wan, namespace))) {
    await deleteLink(runner, name);
    await runner.run(['ip', 'link', 'add', 'name', name, 'type', 'veth', 'peer', 'name', wan, 'netns', namespace]);
  }
  await runner.run(['sysctl', '-q', '-w', `net/ipv6/conf/${name}/disable_ipv6=1`]);
  await ipBatch(runner, [
    ['addr', 'replace', `${outer}/31`, 'dev', name],
    ['link', 'set', 'dev', name, 'up'],
  ]);
  const lines = [
    ['addr', 'replace', `${inner}/31`, 'dev', wan],
    ['link', 'set', 'dev', wan, 'up'],
    ['route', 'replace', 'default', 'via', outer, 'dev', wan],
  ];
  await ipBatch(runner, lines, namespace);
  const settings = [`net/ipv4/conf/${name}/forwarding=1`, `net/ipv4/conf/${name}/rp_filter=1`];
  await runner.run(['sysctl', '-q', '-w', ...settings]);
}

/** Undo of applyUplink; nothing there is success. */
export async function removeUplink(runner: Runner, installation: string, networkId: string): Promise<void> {
  await deleteLink(runner, uplinkName(installation, networkId));
}

/** Leads public addresses to the router, whose way out is there, and answers for them on the uplink. */
export async function attractAddresses(
  runner: Runner,
  installation: string,
  networkId: string,
  slot: number,
  uplink: Uplink,
  addresses: readonly string[],
): Promise<void> {
  if (addresses.length === 0) return;
  const via = ['via', slotAddresses(slot).inner, 'dev', uplinkName(installation, networkId)];
  await ipBatch(runner, [
    ...addresses.map((address) => ['route', 'replace', `${address}/32`, ...via]),
    ...addresses.map((address) => ['neigh', 'replace', 'proxy', address, 'dev', uplink.interface]),
  ]);
}

/** Undo of attractAddresses for `link`, the uplink's; what is not there is success. */
export async function releaseAddresses(
  runner: Runner,
  installation: string,
  networkId: string,
  link: string,
  addresses: readonly string[],
): Promise<void> {
  for (const address of addresses) {
    await gone(runner, ['ip', 'route', 'del', `${address}/32`, 'dev', uplinkName(installation, networkId)]);
    await gone(runner, ['ip', 'neigh', 'del', 'proxy', address, 'dev', link]);
  }
}

async function gone(runner: Runner, argv: readonly string[]): Promise<void> {
  try {
    await runner.run(argv);
  } catch (error) {
    // ESRCH for a route, ENOENT for a neighbour, ENODEV for a link.
    if (!isMissing(error) && !/No such process/.test((error as { stderr?: string }).stderr ?? '')) throw error;
  }
}

/** The first IPv4 address of a link, which is the one that others know it by; null: none. */
export async function firstAddress(runner: Runner, link: string): Promise<string | null> {
  const found = await findLink(runner, link);
  return found?.addr_info?.find(({ family }) => family === 'inet')?.local ?? null;
}
