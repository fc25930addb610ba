/** A network's way out of its router, what leads in by it, and what all networks share of that. */
import { applyAgentRules, noOpening, type Opening, removeAgentRules } from './agent-rules.js';
import type { CheckedNetwork } from './network-spec.js';
import type { Parts } from './parts.js';
import type { NetworkRecord, RecordedOpening } from './record.js';
import {
  applyUplink,
  attractAddresses,
  disableForwarding,
  enableForwarding,
  releaseAddresses,
  removeUplink,
  slotAddresses,
  type Uplink,
} from './uplink.js';

export const closed: RecordedOpening = { ...noOpening, link: '' };

export function openingOf(spec: CheckedNetwork, slot: number, uplink: Uplink): RecordedOpening {
  const addresses = [...spec.publicAddresses, ...spec.forwards].map(({ publicIp }) => publicIp);
  const door = spec.wireguard && { port: spec.wireguard.port, inner: slotAddresses(slot).inner };
  return { addresses: [...new Set(addresses)], door, link: uplink.interface };
}

/** The way out and what leads in. Undo: closeOpenings, removeUplink and, with the last network, closeWayOut. */
export async function applyWayOut(parts: Parts, id: string, { slot, openings }: NetworkRecord): Promise<void> {
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

/** Undo of what all networks share. */
export async function closeWayOut({ runner, records, context }: Parts): Promise<void> {
  const link = await records.forwarding();
  if (link !== null) await disableForwarding(runner, link);
  await records.setForwarding(null);
  await removeAgentRules(runner, context.installation);
}
