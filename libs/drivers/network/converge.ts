/**
 * Makes one network what its spec says, from whatever is there, and takes it away again. What every step made before is
 * on record before it is made, so that a crash at any point leaves nothing that the next try does not find.
 */
import type { DriverContext, NetworkStatus, Ref } from '#libs/drivers/contract';
import type { Runner } from '#libs/drivers/host';
import { applyAgentRules, noOpening, type Opening, removeAgentRules } from './agent-rules.js';
import { applyDnsmasq, type Dnsmasq, dnsmasqRuns, stopDnsmasq } from './dnsmasq.js';
import type { Stale } from './dnsmasq-leases.js';
import { applyGuard, type GuardEntry, guardEntries, removeGuard } from './guard.js';
import {
  adoptPorts,
  bridgesHere,
  deleteLink,
  deleteNamespace,
  ensureBridge,
  ensureNamespace,
  ensureRouterPort,
  ipBatch,
  lan,
} from './links.js';
import { applyMetadata, type MetadataDoor, metadataRuns, removeMetadata } from './metadata.js';
import { bridgeName, namespaceName, routerPortName, wireguardName } from './names.js';
import type { CheckedNetwork } from './network-spec.js';
import type { NetworkRecord, RecordedOpening, Records } from './record.js';
import { applyRouterRules, metadataAddress } from './router.js';
import {
  applyUplink,
  attractAddresses,
  chooseSlot,
  disableForwarding,
  enableForwarding,
  firstAddress,
  releaseAddresses,
  removeUplink,
  slotAddresses,
  type Uplink,
} from './uplink.js';
import { applyWireguard, type Door, isProcess, removeWireguard, wireguardRuns } from './wireguard.js';

export interface NetworkOptions {
  /** Without it guests reach their own network only. */
  uplink?: Uplink;
  /** What stands before every command, e.g. to work inside a host (see #libs/drivers/host). */
  enter?: readonly string[];
}

/** What this driver reports: where the network is, too. */
export interface LocalNetworkStatus extends NetworkStatus {
  bridge: string;
  namespace: string;
}

export interface Parts {
  context: DriverContext;
  options: NetworkOptions;
  runner: Runner;
  records: Records;
  /** One at a time: what concerns all networks, and all of one network. */
  alone<T>(key: string, work: () => Promise<T>): Promise<T>;
}

/** `uplinkAddress`: the machine's, as peers of a VPN door know it. */
export function statusOf(
  installation: string,
  id: string,
  port: number | null,
  uplinkAddress: string | null,
): LocalNetworkStatus {
  return {
    bridge: bridgeName(installation, id),
    namespace: namespaceName(installation, id),
    ...(port !== null && uplinkAddress !== null && { wireguardEndpoint: `${uplinkAddress}:${port}` }),
  };
}

export async function uplinkAddress({ runner, options }: Parts): Promise<string | null> {
  return options.uplink ? firstAddress(runner, options.uplink.interface) : null;
}

/** The programs that a network keeps. */
function residents({ context, records, options }: Parts, id: string): { dns: Dnsmasq; vpn: Door; meta: MetadataDoor } {
  const at = { dir: records.dir(id), namespace: namespaceName(context.installation, id) };
  return {
    dns: { ...at, resolvers: options.uplink?.resolvers ?? [] },
    vpn: { ...at, name: wireguardName(context.installation, id) },
    meta: { ...at, networkId: id },
  };
}

/** Whether a program that should run for it does not. */
export async function lacksProgram(parts: Parts, record: NetworkRecord): Promise<boolean> {
  const { dns, vpn, meta } = residents(parts, record.ref.id);
  if (!(await dnsmasqRuns(dns))) return true;
  if (record.door?.process && !(await wireguardRuns(vpn))) return true;
  return parts.context.metadataSocket !== null && !(await metadataRuns(meta));
}

export async function apply(
  parts: Parts,
  ref: Ref,
  spec: CheckedNetwork,
  signal: AbortSignal,
): Promise<LocalNetworkStatus> {
  const { runner, context, records } = parts;
  const { installation, metadataSocket } = context;
  const wall = spec.firewall.length > 0 ? spec.gatewayMac : null;
  const entries = guardEntries(installation, ref.id, spec.leases, wall);
  const { before, record } = await remember(parts, ref, spec, entries);
  signal.throwIfAborted();
  const bridge = await ensureBridge(runner, installation, ref, spec.mtu);
  await parts.alone('', () => applyGuard(runner, installation, ref.id, staleEntries(before, entries), entries));
  if (bridge.isNew) await adoptPorts(runner, bridge.name, new Set(entries.map(({ port }) => port)));
  const namespace = await ensureNamespace(runner, installation, ref.id);
  signal.throwIfAborted();
  const { dns, vpn, meta } = residents(parts, ref.id);
  await applyRouterRules(runner, namespace, spec, vpn.name);
  await ensureRouterPort(runner, installation, ref.id, spec, metadataSocket === null ? [] : [`${metadataAddress}/32`]);
  await applyWayOut(parts, ref.id, record);
  signal.throwIfAborted();
  const stale = staleLeases(before, entries);
  await applyDnsmasq(runner, dns, spec, stale);
  // Whoever had one of these addresses before is not whom the router should send to.
  const flush = [...stale.leases.map(({ ip }) => ip), ...stale.addresses6];
  if (flush.length > 0) {
    const lines = flush.map((ip) => ['neigh', 'flush', 'to', ip, 'dev', lan]);
    await ipBatch(runner, lines, namespace);
  }
  if (metadataSocket !== null) await applyMetadata(runner, meta, metadataSocket);
  else await removeMetadata(runner, meta);
  // Last, since it is the one that a machine may lack the programs for.
  if (spec.wireguard) await applyWireguard(runner, vpn, spec.wireguard);
  else if (before?.door) await removeWireguard(runner, vpn);
  const door = spec.wireguard && { port: spec.wireguard.port, process: await isProcess(runner, vpn) };
  await records.save({ ...record, entries, openings: record.openings.slice(-1), door });
  return statusOf(installation, ref.id, door?.port ?? null, await uplinkAddress(parts));
}

/** Notes what is about to be made, together with what is there, and gives both. The last opening is the new one. */
async function remember(
  { runner, records, options, alone }: Parts,
  ref: Ref,
  spec: CheckedNetwork,
  entries: GuardEntry[],
): Promise<{ before: NetworkRecord | null; record: NetworkRecord }> {
  return alone('', async () => {
    const before = await records.load(ref.id);
    let slot = before?.slot ?? null;
    if (slot === null && options.uplink) {
      const others = (await records.all()).flatMap((record) => record.slot ?? []);
      slot = await chooseSlot(runner, ref.id, new Set(others));
    }
    const opening = options.uplink && slot !== null ? openingOf(spec, slot, options.uplink) : closed;
    // Of many tries one each: the list has no more than what really differs.
    const others = (before?.openings ?? []).filter((one) => JSON.stringify(one) !== JSON.stringify(opening));
    const openings = [...others, opening];
    const port = spec.wireguard?.port ?? before?.door?.port ?? null;
    const door = port === null ? null : { port, process: before?.door?.process ?? false };
    const record = { ref, slot, entries: [...staleEntries(before, entries), ...entries], openings, door };
    await records.save(record);
    return { before, record };
  });
}

export const closed: RecordedOpening = { ...noOpening, link: '' };

function openingOf(spec: CheckedNetwork, slot: number, uplink: Uplink): RecordedOpening {
  const addresses = [...spec.publicAddresses, ...spec.forwards].map(({ publicIp }) => publicIp);
  const door = spec.wireguard && { port: spec.wireguard.port, inner: slotAddresses(slot).inner };
  return { addresses: [...new Set(addresses)], door, link: uplink.interface };
}

/** What must leave the guard's sets. */
function staleEntries(before: NetworkRecord | null, entries: readonly GuardEntry[]): GuardEntry[] {
  const key = ({ port, mac, ip, ip6, wall }: GuardEntry) => `${port} ${mac} ${ip} ${ip6} ${wall}`;
  const wanted = new Set(entries.map(key));
  return (before?.entries ?? []).filter((entry) => !wanted.has(key(entry)));
}

/** What must be forgotten: addresses that are nobody's, or another's. */
function staleLeases(before: NetworkRecord | null, entries: readonly GuardEntry[]): Stale {
  const wanted = new Set(entries.flatMap(({ mac, ip, ip6 }) => [`${mac} ${ip}`, `${mac} ${ip6}`]));
  const old = before?.entries ?? [];
  return {
    leases: old.filter(({ mac, ip }) => !wanted.has(`${mac} ${ip}`)),
    addresses6: old.flatMap(({ mac, ip6 }) => (ip6 === null || wanted.has(`${mac} ${ip6}`) ? [] : [ip6])),
  };
}

/** The way out and what leads in. Undo: closeOpenings, removeUplink and, with the last network, closeWayOut. */
async function applyWayOut(parts: Parts, id: string, { slot, openings }: NetworkRecord): Promise<void> {
  const { runner, records, context, options, alone } = parts;
  const { installation } = context;
  const [opening = closed] = openings.slice(-1);
  await alone('', async () => {
    const stale = await closeOpenings(parts, id, openings.slice(0, -1), opening);
    await applyAgentRules(runner, installation, options.uplink, stale, opening);
    const link = options.uplink?.interface;
    if (link !== undefined) await enableForwarding(runner, link, () => records.setForwarding(link));
  });
  if (!options.uplink || slot === null) return removeUplink(runner, installation, id);
  await applyUplink(runner, installation, id, slot);
  await attractAddresses(runner, installation, id, slot, options.uplink, opening.addresses);
}

/**
 * Stops answering for addresses that this network no longer has, and gives what must leave the agent's rules. What has
 * come to another network meanwhile stays.
 */
export async function closeOpenings(
  { runner, context, records }: Parts,
  id: string,
  before: readonly RecordedOpening[],
  now: RecordedOpening,
): Promise<Opening> {
  const has = ({ door }: RecordedOpening, one: Opening['door']) =>
    door?.port === one?.port && door?.inner === one?.inner;
  const old = before.map(({ link, addresses, door }) => ({
    link,
    addresses: addresses.filter((address) => link !== now.link || !now.addresses.includes(address)),
    door: has(now, door) ? null : door,
  }));
  if (old.every(({ addresses, door }) => addresses.length === 0 && door === null)) return noOpening;
  const others = (await records.all()).filter(({ ref }) => ref.id !== id).flatMap(({ openings }) => openings);
  const theirs = new Set(others.flatMap(({ addresses }) => addresses));
  const ports = new Set(others.flatMap(({ door }) => door?.port ?? []));
  const gone = old.map((one) => ({ ...one, addresses: one.addresses.filter((address) => !theirs.has(address)) }));
  for (const { link, addresses } of gone) {
    await releaseAddresses(runner, context.installation, id, link, addresses);
  }
  const addresses = gone.flatMap((one) => one.addresses).filter((address) => !now.addresses.includes(address));
  const door = gone.map((one) => one.door).find((one) => one !== null && !ports.has(one.port)) ?? null;
  return { addresses: [...new Set(addresses)], door };
}

export async function remove(parts: Parts, ref: Ref, signal: AbortSignal): Promise<void> {
  const { runner, records, context, options } = parts;
  const { installation } = context;
  signal.throwIfAborted();
  const record = await records.load(ref.id);
  const { dns, vpn, meta } = residents(parts, ref.id);
  await removeMetadata(runner, meta);
  await removeWireguard(runner, vpn);
  await stopDnsmasq(runner, dns);
  await deleteLink(runner, routerPortName(installation, ref.id));
  await parts.alone('', async () => {
    const stale = await closeOpenings(parts, ref.id, record?.openings ?? [], closed);
    await applyAgentRules(runner, installation, options.uplink, stale);
  });
  await removeUplink(runner, installation, ref.id);
  await deleteNamespace(runner, namespaceName(installation, ref.id));
  await deleteLink(runner, bridgeName(installation, ref.id));
  await parts.alone('', async () => {
    const last = (await bridgesHere(runner, installation)).length === 0;
    await removeGuard(runner, installation, ref.id, record?.entries ?? [], last);
    if (last) await closeWayOut(parts);
    await records.delete(ref.id);
  });
}

/** Undo of what all networks share. */
async function closeWayOut({ runner, records, context }: Parts): Promise<void> {
  const link = await records.forwarding();
  if (link !== null) await disableForwarding(runner, link);
  await records.setForwarding(null);
  await removeAgentRules(runner, context.installation);
}
