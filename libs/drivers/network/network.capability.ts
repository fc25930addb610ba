/**
 * Networks on Linux: per network a bridge, a router in a namespace of its own with dnsmasq, a guard against forged
 * frames, and a way out where the machine has one. Converges from any half-made state, also after the machine's restart;
 * what is there is found on the machine, its record (see record.ts) only adds what names cannot tell.
 */
import {
  type Capability,
  type DriverContext,
  DriverError,
  type Found,
  type NetworkSpec,
  type Ref,
} from '#libs/drivers/contract';
import { CommandError, createRunner, type Runner } from '#libs/drivers/host';
import { applyDnsmasq, type Dnsmasq, stopDnsmasq } from './dnsmasq.js';
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
import { bridgeName, checkRef, namespaceName, routerPortName } from './names.js';
import { type CheckedNetwork, checkNetworkSpec } from './network-spec.js';
import { openRecords, type Records } from './record.js';
import { applyRouterRules } from './router.js';
import {
  applyAgentRules,
  applyUplink,
  checkUplink,
  chooseSlot,
  disableForwarding,
  enableForwarding,
  removeAgentRules,
  removeUplink,
  type Uplink,
} from './uplink.js';

export interface NetworkOptions {
  /** Without it guests reach their own network only. */
  uplink?: Uplink;
  /** What stands before every command, e.g. to work inside a host (see #libs/drivers/host). */
  enter?: readonly string[];
}

export interface NetworkStatus {
  bridge: string;
  namespace: string;
}

interface Parts {
  context: DriverContext;
  options: NetworkOptions;
  runner: Runner;
  records: Records;
  /** One at a time: what concerns all networks, and all of one network. */
  alone<T>(key: string, work: () => Promise<T>): Promise<T>;
}

/** Kind `network`. Needs root, ip, nft, sysctl, dnsmasq. Throws when the options are wrong. */
export function createNetworkCapability(
  context: DriverContext,
  options: NetworkOptions = {},
): Capability<NetworkSpec, NetworkStatus> {
  if (options.uplink) checkUplink(options.uplink);
  const parts: Parts = {
    context,
    options,
    runner: createRunner(options.enter),
    records: openRecords(context.stateDir),
    alone: queues(),
  };
  return {
    kind: 'network',
    after: [],
    async apply(ref, spec, signal) {
      checkRef(context.installation, ref);
      const checked = checkNetworkSpec(spec);
      return parts.alone(ref.id, () => told(() => apply(parts, ref, checked, signal)));
    },
    async remove(ref, signal) {
      checkRef(context.installation, ref);
      await parts.alone(ref.id, () => told(() => remove(parts, ref, signal)));
    },
    inventory: () => told(() => inventory(parts)),
  };
}

function status(installation: string, id: string): NetworkStatus {
  return { bridge: bridgeName(installation, id), namespace: namespaceName(installation, id) };
}

function dnsmasqOf({ context, records, options }: Parts, id: string): Dnsmasq {
  return {
    dir: records.dir(id),
    namespace: namespaceName(context.installation, id),
    resolvers: options.uplink?.resolvers ?? [],
  };
}

async function apply(parts: Parts, ref: Ref, spec: CheckedNetwork, signal: AbortSignal): Promise<NetworkStatus> {
  const { runner, options, context } = parts;
  const { installation } = context;
  const entries = guardEntries(installation, ref.id, spec.leases);
  const { slot, stale } = await remember(parts, ref, entries);
  signal.throwIfAborted();
  const bridge = await ensureBridge(runner, installation, ref, spec.mtu);
  await parts.alone('', () => applyGuard(runner, installation, ref.id, stale, entries));
  if (bridge.isNew) await adoptPorts(runner, bridge.name, new Set(entries.map(({ port }) => port)));
  const namespace = await ensureNamespace(runner, installation, ref.id);
  signal.throwIfAborted();
  await applyRouterRules(runner, namespace);
  await ensureRouterPort(runner, installation, ref.id, spec);
  await parts.alone('', () => openWayOut(parts));
  if (options.uplink && slot !== null) await applyUplink(runner, installation, ref.id, slot);
  else await removeUplink(runner, installation, ref.id);
  signal.throwIfAborted();
  await applyDnsmasq(runner, dnsmasqOf(parts, ref.id), spec, stale);
  // Whoever had one of these addresses before is not whom the router should send to.
  const flush = stale.map(({ ip }) => ['neigh', 'flush', 'to', ip, 'dev', lan]);
  if (flush.length > 0) await ipBatch(runner, flush, namespace);
  await parts.records.save({ ref, slot, entries });
  return status(installation, ref.id);
}

/** Notes what is about to be made, together with what is there. `stale`: what must leave the guard's sets. */
async function remember(
  { runner, records, options, alone }: Parts,
  ref: Ref,
  entries: readonly GuardEntry[],
): Promise<{ slot: number | null; stale: GuardEntry[] }> {
  const key = ({ port, mac, ip }: GuardEntry) => `${port} ${mac} ${ip}`;
  const wanted = new Set(entries.map(key));
  return alone('', async () => {
    const before = await records.load(ref.id);
    const stale = (before?.entries ?? []).filter((entry) => !wanted.has(key(entry)));
    let slot = before?.slot ?? null;
    if (slot === null && options.uplink) {
      const others = (await records.all()).flatMap((record) => record.slot ?? []);
      slot = await chooseSlot(runner, ref.id, new Set(others));
    }
    await records.save({ ref, slot, entries: [...stale, ...entries] });
    return { slot, stale };
  });
}

async function remove(parts: Parts, ref: Ref, signal: AbortSignal): Promise<void> {
  const { runner, records, context } = parts;
  const { installation } = context;
  signal.throwIfAborted();
  const record = await records.load(ref.id);
  await stopDnsmasq(runner, dnsmasqOf(parts, ref.id));
  await deleteLink(runner, routerPortName(installation, ref.id));
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

/** What all networks share of the way out. Undo: closeWayOut. */
async function openWayOut({ runner, records, context, options }: Parts): Promise<void> {
  await applyAgentRules(runner, context.installation, options.uplink);
  const link = options.uplink?.interface;
  if (link !== undefined) await enableForwarding(runner, link, () => records.setForwarding(link));
}

async function closeWayOut({ runner, records, context }: Parts): Promise<void> {
  const link = await records.forwarding();
  if (link !== null) await disableForwarding(runner, link);
  await records.setForwarding(null);
  await removeAgentRules(runner, context.installation);
}

async function inventory({ context, runner, records }: Parts): Promise<Found<NetworkStatus>[]> {
  const refs = new Map((await bridgesHere(runner, context.installation)).map((ref) => [ref.id, { ref, here: true }]));
  for (const { ref } of await records.all()) if (!refs.has(ref.id)) refs.set(ref.id, { ref, here: false });
  return [...refs.values()].map(({ ref, here }) => ({
    ref,
    status: status(context.installation, ref.id),
    ...(!here && { damaged: true }),
  }));
}

/** Work of one key goes one after the other, in the order of asking. */
function queues(): Parts['alone'] {
  const tails = new Map<string, Promise<unknown>>();
  return (key, work) => {
    const result = (tails.get(key) ?? Promise.resolve()).then(work, work);
    const tail: Promise<void> = result.then(
      () => undefined,
      () => undefined,
    );
    void tail.then(() => {
      if (tails.get(key) === tail) tails.delete(key);
    });
    tails.set(key, tail);
    return result;
  };
}

/** A program's failure as the driver's. */
async function told<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new DriverError('network_failed', error.message, { cause: error });
  }
}
