/**
 * Makes one network what its spec says, from whatever is there, and takes it away again. What every step made before is
 * on record before it is made, so that a crash at any point leaves nothing that the next try does not find.
 */
import type { Ref } from '#libs/drivers/contract';
import { applyGates } from './agent-rules.js';
import type { Stale } from './dnsmasq-leases.js';
import { applyGuard, type GuardEntry, type Guarded, guardedBy, removeGuard } from './guard.js';
import { adoptPorts, bridgesHere, deleteLink, ensureBridge } from './links.js';
import { bridgeName, overlayName, routerPortName } from './names.js';
import type { CheckedNetwork } from './network-spec.js';
import { applyOverlay } from './overlay.js';
import { type Gate, gatesOf } from './overlay-gate.js';
import { type LocalNetworkStatus, type Parts, statusOf, uplinkAddress } from './parts.js';
import type { NetworkRecord, Role } from './record.js';
import { type Applied, applyAnnex, applyRouter, leaveRole } from './role.js';
import { chooseSlot } from './uplink.js';
import { closed, closeWayOut, openingOf } from './way-out.js';

export async function apply(
  parts: Parts,
  ref: Ref,
  spec: CheckedNetwork,
  signal: AbortSignal,
): Promise<LocalNetworkStatus> {
  const { runner, context } = parts;
  const { installation } = context;
  const plan = planOf(parts, ref.id, spec);
  const { before, record } = await remember(parts, ref, spec, plan);
  signal.throwIfAborted();
  const bridge = await ensureBridge(runner, installation, ref, spec.mtu, spec.overlay !== null);
  const { entries } = plan;
  const stale = staleGuard(before, plan);
  // A gateway elsewhere is heard until the one here stands.
  const keepsGateway = plan.role === 'router' && stale.gateway !== null;
  const guard = (gone: Guarded) => parts.alone('', () => applyGuard(runner, installation, ref.id, gone, plan));
  await guard(keepsGateway ? { ...stale, gateway: null } : stale);
  if (bridge.isNew) await adoptPorts(runner, bridge.name, new Set(entries.map(({ port }) => port)));
  signal.throwIfAborted();
  // A bridge that is new has nothing of another role.
  const isChange = record.role === null && !(before === null && bridge.isNew);
  const after: Applied = { before, record, stale: staleLeases(before, entries) };
  let door: NetworkRecord['door'] = null;
  if (plan.role === 'annex') {
    // A router that was here gives way at the last moment: its port out of the way, then the way to where it is now.
    await applySpan(parts, ref, spec, after, plan, async () => {
      if (isChange) await deleteLink(runner, routerPortName(installation, ref.id));
    });
    if (isChange) await leaveRole(parts, ref.id, before);
    await applyAnnex(parts, ref, spec);
  } else {
    if (isChange) await leaveRole(parts, ref.id, before);
    door = await applyRouter(parts, ref, spec, after, signal);
    await applySpan(parts, ref, spec, after, plan);
    if (keepsGateway) await guard({ ...stale, entries: [] });
    const [opening = closed] = record.openings.slice(-1);
    await parts.announcer.tell(ref.id, opening.link, opening.addresses);
  }
  const overlay = spec.overlay && { gates: plan.gates, gateway: plan.gateway };
  const openings = record.openings.slice(-1);
  await parts.records.save({ ...record, entries, openings, door, overlay, role: plan.role });
  return statusOf(installation, ref.id, door?.port ?? null, await uplinkAddress(parts));
}

/** The way to the other nodes, and what may come from there. Undo: in `remove`. `beforeEntries`: as of applyOverlay. */
async function applySpan(
  parts: Parts,
  { id }: Ref,
  spec: CheckedNetwork,
  { before, record }: Applied,
  { gates }: Plan,
  beforeEntries?: () => Promise<void>,
) {
  if (!spec.overlay && !record.overlay) return;
  const { runner, context, options } = parts;
  const stale = staleGates(before, gates);
  await parts.alone('', () => applyGates(runner, context.installation, options.uplink, stale, gates));
  await applyOverlay(runner, context.installation, id, spec, options.underlay, beforeEntries);
}

/** What a spec makes of this machine's part of the network. */
interface Plan extends Guarded {
  role: Role;
  gates: Gate[];
}

function planOf({ context, options }: Parts, id: string, spec: CheckedNetwork): Plan {
  return {
    ...guardedBy(context.installation, id, spec, context.metadataSocket !== null),
    role: typeof spec.overlay?.router === 'number' ? 'annex' : 'router',
    gates: gatesOf(spec.overlay, options.underlay?.interface ?? null),
  };
}

/** Notes what is about to be made, together with what is there, and gives both. The last opening is the new one. */
async function remember(
  { runner, records, options, alone }: Parts,
  ref: Ref,
  spec: CheckedNetwork,
  plan: Plan,
): Promise<{ before: NetworkRecord | null; record: NetworkRecord }> {
  return alone('', async () => {
    const before = await records.load(ref.id);
    const isRouter = plan.role === 'router';
    let slot = before?.slot ?? null;
    if (slot === null && options.uplink && isRouter) {
      const others = (await records.all()).flatMap((record) => record.slot ?? []);
      slot = await chooseSlot(runner, ref.id, new Set(others));
    }
    const isOpen = options.uplink && slot !== null && isRouter;
    const opening = isOpen ? openingOf(spec, slot!, options.uplink!) : closed;
    // Of many tries one each: the list has no more than what really differs.
    const others = (before?.openings ?? []).filter((one) => JSON.stringify(one) !== JSON.stringify(opening));
    const openings = [...others, opening];
    const port = spec.wireguard?.port ?? before?.door?.port ?? null;
    const door = port === null ? null : { port, process: before?.door?.process ?? false };
    const { entries, gateway } = staleGuard(before, plan);
    const gates = [...staleGates(before, plan.gates), ...plan.gates];
    const isOverlaid = spec.overlay !== null || before?.overlay;
    const record: NetworkRecord = {
      ...{ ref, slot, openings, door },
      entries: [...entries, ...plan.entries],
      role: before?.role === plan.role ? plan.role : null,
      overlay: isOverlaid ? { gates, gateway: plan.gateway ?? gateway } : null,
    };
    await records.save(record);
    return { before, record };
  });
}

/** What must leave the guard's sets. */
function staleGuard(before: NetworkRecord | null, { entries, gateway }: Guarded): Guarded {
  const key = ({ port, mac, ip, ip6, wall, away, annex }: GuardEntry) =>
    `${port} ${mac} ${ip} ${ip6} ${wall} ${away} ${annex}`;
  const wanted = new Set(entries.map(key));
  const old = before?.overlay?.gateway ?? null;
  return {
    entries: (before?.entries ?? []).filter((entry) => !wanted.has(key(entry))),
    gateway: gateway === old ? null : old,
  };
}

function staleGates(before: NetworkRecord | null, gates: readonly Gate[]): Gate[] {
  const wanted = new Set(gates.map((gate) => JSON.stringify(gate)));
  return (before?.overlay?.gates ?? []).filter((gate) => !wanted.has(JSON.stringify(gate)));
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

export async function remove(parts: Parts, ref: Ref, signal: AbortSignal): Promise<void> {
  const { runner, records, context, options } = parts;
  const { installation } = context;
  signal.throwIfAborted();
  const record = await records.load(ref.id);
  await leaveRole(parts, ref.id, record);
  if (record?.overlay) {
    const { gates } = record.overlay;
    await parts.alone('', () => applyGates(runner, installation, options.uplink, gates, []));
  }
  await deleteLink(runner, overlayName(installation, ref.id));
  await deleteLink(runner, bridgeName(installation, ref.id));
  await parts.alone('', async () => {
    const last = (await bridgesHere(runner, installation)).length === 0;
    const stale = { entries: record?.entries ?? [], gateway: record?.overlay?.gateway ?? null };
    await removeGuard(runner, installation, ref.id, stale, last);
    if (last) await closeWayOut(parts);
    await records.delete(ref.id);
  });
}
