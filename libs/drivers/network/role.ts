/**
 * What a network has in its namespace on this machine: its router with all that serves its guests, or, while that is on
 * another node, what answers for this node alone.
 */
import type { Ref } from '#libs/drivers/contract';
import { applyAgentRules } from './agent-rules.js';
import { ensureAnnex } from './annex.js';
import { applyDnsmasq, type Dnsmasq, dnsmasqRuns, stopDnsmasq } from './dnsmasq.js';
import type { Stale } from './dnsmasq-leases.js';
import { deleteLink, deleteNamespace, ensureNamespace, ensureRouterPort, ipBatch, lan } from './links.js';
import { applyMetadata, type MetadataDoor, metadataRuns, removeMetadata } from './metadata.js';
import { metadataAddress, namespaceName, routerPortName, wireguardName } from './names.js';
import type { CheckedNetwork } from './network-spec.js';
import type { Parts } from './parts.js';
import type { NetworkRecord } from './record.js';
import { applyRouterRules } from './router.js';
import { removeUplink } from './uplink.js';
import { applyWayOut, closed, closeOpenings } from './way-out.js';
import { applyWireguard, type Door, isProcess, removeWireguard, wireguardRuns } from './wireguard.js';

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
  if (record.role !== 'annex' && !(await dnsmasqRuns(dns))) return true;
  if (record.door?.process && !(await wireguardRuns(vpn))) return true;
  return parts.context.metadataSocket !== null && !(await metadataRuns(meta));
}

export interface Applied {
  before: NetworkRecord | null;
  record: NetworkRecord;
  stale: Stale;
}

/** The network's router with all it serves. Gives its VPN door. Undo: leaveRole. */
export async function applyRouter(
  parts: Parts,
  ref: Ref,
  spec: CheckedNetwork,
  { before, record, stale }: Applied,
  signal: AbortSignal,
): Promise<NetworkRecord['door']> {
  const { runner, context } = parts;
  const { installation, metadataSocket } = context;
  const namespace = await ensureNamespace(runner, installation, ref.id);
  const { dns, vpn, meta } = residents(parts, ref.id);
  await applyRouterRules(runner, namespace, spec, vpn.name);
  await ensureRouterPort(runner, installation, ref.id, spec, metadataSocket === null ? [] : [`${metadataAddress}/32`]);
  await applyWayOut(parts, ref.id, record);
  signal.throwIfAborted();
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
  return spec.wireguard && { port: spec.wireguard.port, process: await isProcess(runner, vpn) };
}

/** What answers guests here while their router is elsewhere. Undo: leaveRole. */
export async function applyAnnex(parts: Parts, { id }: Ref, spec: CheckedNetwork): Promise<void> {
  const { runner, context } = parts;
  const { installation, metadataSocket } = context;
  if (metadataSocket === null) return leaveRole(parts, id, null);
  await ensureNamespace(runner, installation, id);
  await ensureAnnex(runner, installation, id, spec);
  await applyMetadata(runner, residents(parts, id).meta, metadataSocket);
}

/** Ends all that is in a network's namespace, and what leads there. Undo of applyRouter and applyAnnex. */
export async function leaveRole(parts: Parts, id: string, record: NetworkRecord | null): Promise<void> {
  const { runner, context, options } = parts;
  const { installation } = context;
  const { dns, vpn, meta } = residents(parts, id);
  parts.announcer.forget(id);
  await removeMetadata(runner, meta);
  await removeWireguard(runner, vpn);
  await stopDnsmasq(runner, dns);
  await deleteLink(runner, routerPortName(installation, id));
  await parts.alone('', async () => {
    const stale = await closeOpenings(parts, id, record?.openings ?? [], closed);
    await applyAgentRules(runner, installation, options.uplink, stale);
  });
  await removeUplink(runner, installation, id);
  await deleteNamespace(runner, namespaceName(installation, id));
}
