/**
 * Machines of a node that is gone, on others: with their disks where these lie on storage that others share, else made anew
 * from what the content store still has of them. What that is, and what is lost with the node, is known before anything is done. What lies on the dead node is left as it is: should it
 * come back, nobody removes its disks without an administrator's word.
 */
import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { remakeDisk, takeOverDisk } from '#libs/kinds/disk';
import { leaveNode, lockNetworks, placeNetworks, refreshNetworks } from '#libs/kinds/network';
import { type Requirement, reserveNode, splitReservation, withdraw } from '#libs/nodes';
import {
  type Caller,
  enqueue,
  inTransaction,
  type KindDefinition,
  lockResource,
  updateResource,
  type Who,
  withCondition,
} from '#libs/resources';
import { placementChoice } from './claims.js';
import type { InstanceResource } from './instance.resource.js';
import { tellInstance } from './on-node.js';
import type { InstanceDocument, InstanceRow } from './rows.js';

/** What one disk is made of on another node. */
export interface DiskRescue {
  id: string;
  name: string;
  sizeGiB: number;
  /** The shared storage that it lies on; null: it lay on the node's own. */
  storage: string | null;
  /**
   * `shared`: its own file, with all that is in it. `snapshot`: an image that was made of a snapshot of it; `image`: the
   * one that it was made from; `nothing`: it is empty.
   */
  from: 'shared' | 'snapshot' | 'image' | 'nothing';
  /** Of the tenant that `tenant` says. */
  image: { tenantId: string; id: string; name: string } | null;
  /** What was written since then is lost; null: nothing is. */
  lostSince: Date | null;
  /** Snapshots that lay with it, and are lost. */
  lostSnapshots: string[];
}

export interface Rescue {
  tenantId: string;
  id: string;
  name: string;
  disks: DiskRescue[];
  /** Why it cannot be evacuated now; null: it can. */
  obstacle: string | null;
}

/** What would become of each machine on a node. The same rows give the same answer. */
export async function planEvacuation(tx: Tx, nodeId: string): Promise<Rescue[]> {
  const machines = await sql<Omit<Rescue, 'disks'>>`
    select k.tenant_id as "tenantId", k.id, r.name, (select 'job ' || j.id || ' (' || j.action || ') has not ended'
      from job j where j.tenant_id = k.tenant_id and j.finished_at is null and (j.resource_id = k.id or j.resource_id in (
        select d.id from disk d where d.tenant_id = k.tenant_id and d.instance_id = k.id)) limit 1) as obstacle
    from instance k join resource r on r.tenant_id = k.tenant_id and r.id = k.id
    where k.node_id = ${nodeId} and r.state in ('ready', 'updating', 'failed') and exists (select 1 from placement p
      where p.tenant_id = k.tenant_id and p.resource_id = k.id and p.node_id = k.node_id and p.present)
    order by k.tenant_id, r.name`.execute(tx);
  const plan: Rescue[] = [];
  for (const machine of machines.rows) plan.push({ ...machine, disks: await rescuesOf(tx, machine) });
  return plan;
}

interface DiskFound {
  id: string;
  name: string;
  sizeGiB: number;
  storage: string | null;
  createdAt: Date;
  base: DiskRescue['image'];
  kept: (DiskRescue['image'] & { at: string }) | null;
  snapshots: string[];
}

async function rescuesOf(tx: Tx, { tenantId, id }: Who): Promise<DiskRescue[]> {
  const result = await sql<DiskFound>`
    select d.id, r.name, d.size_gib as "sizeGiB", d.storage, r.created_at as "createdAt",
      case when d.image_id is not null then json_build_object('tenantId', d.image_tenant_id, 'id', d.image_id,
        'name', coalesce((select i.name from resource i where i.tenant_id = d.image_tenant_id and i.id = d.image_id), d.image_id::text)) end as base,
      (select json_build_object('tenantId', i.tenant_id, 'id', i.id, 'name', ir.name, 'at', sr.created_at)
        from image i join resource ir on ir.tenant_id = i.tenant_id and ir.id = i.id
        join snapshot s on s.tenant_id = i.tenant_id and s.id = i.source_snapshot_id
        join resource sr on sr.tenant_id = s.tenant_id and sr.id = s.id
        where s.tenant_id = d.tenant_id and s.disk_id = d.id and ir.state = 'ready' and i.sha256 is not null
        order by sr.created_at desc limit 1) as kept,
      array(select sr.name from snapshot s join resource sr on sr.tenant_id = s.tenant_id and sr.id = s.id
        where s.tenant_id = d.tenant_id and s.disk_id = d.id order by sr.created_at) as snapshots
    from disk d join resource r on r.tenant_id = d.tenant_id and r.id = d.id
    where d.tenant_id = ${tenantId} and d.instance_id = ${id} order by d.slot`.execute(tx);
  return result.rows.map(({ kept, base, createdAt, snapshots, ...disk }) => {
    if (disk.storage !== null) return { ...disk, from: 'shared', image: null, lostSince: null, lostSnapshots: [] };
    return {
      ...disk,
      from: kept ? 'snapshot' : base ? 'image' : 'nothing',
      image: kept ? { tenantId: kept.tenantId, id: kept.id, name: kept.name } : base,
      lostSince: kept ? new Date(kept.at) : createdAt,
      lostSnapshots: snapshots,
    };
  });
}

/**
 * Does what the plan says of one machine; gives the id of the job that brings it up. The transaction acts in its tenant.
 * Throws RhyzomeError `conflict` when it is no longer so, `no_capacity`.
 */
export async function evacuate(
  tx: Tx,
  kind: KindDefinition<InstanceRow>,
  caller: Caller,
  rescue: Rescue,
  node: { id: string; name: string },
): Promise<string> {
  const { tenantId, id } = rescue;
  const core: ResourceCore = { tenantId, id, kind: kind.name, name: rescue.name, tags: {} };
  const row = (await lockResource(tx, kind, core)) as InstanceRow | undefined;
  const now = row?.node_id === node.id ? await rescuesOf(tx, core) : [];
  if (!row || JSON.stringify(now) !== JSON.stringify(rescue.disks)) {
    throw new RhyzomeError('conflict', `The instance ${rescue.name} has changed meanwhile; look again.`);
  }
  const networks = [...new Set(row.interfaces.map(({ network }) => network))];
  await lockNetworks(tx, tenantId, networks);
  const toNode = await takeRoom(tx, core, row, rescue, node.id);
  await tx
    .updateTable('instance')
    .set({ node_id: toNode })
    .where('tenant_id', '=', tenantId)
    .where('id', '=', id)
    .execute();
  for (const disk of rescue.disks) {
    const way = { ...disk, fromNode: node.id, toNode };
    if (disk.from === 'shared') await takeOverDisk(tx, { tenantId, id: disk.id }, way);
    else await remakeDisk(tx, { tenantId, id: disk.id }, way);
  }
  await withdraw(tx, core, node.id);
  // What the node was still to do with it would start it there, too, when it comes back.
  await tx
    .deleteFrom('deed')
    .where('tenant_id', '=', tenantId)
    .where('resource_id', '=', id)
    .where('node_id', '=', node.id)
    .where('state', '!=', 'done')
    .execute();
  await placeNetworks(tx, tenantId, toNode, networks);
  // They stand there for nobody when the node comes back.
  await leaveNode(tx, tenantId, node.id, networks, id);
  await updateResource(tx, core, {
    state: 'updating',
    raiseGeneration: true,
    conditions: withCondition(row.conditions, {
      type: 'DataLoss',
      status: losesAnything(rescue) ? 'true' : 'false',
      reason: 'Evacuated',
      message: lossWords(rescue, node.name),
      observedGeneration: row.generation,
    }),
  });
  await tellInstance(tx, core);
  await refreshNetworks(tx, tenantId, networks);
  const resource = (await kind.make(inTransaction(tx, tenantId)).load(core)) as InstanceResource;
  const document: InstanceDocument = resource.document();
  const request = { previous: document, document };
  const { jobId } = await enqueue(tx, caller, kind, core, { action: 'evacuate', request });
  return jobId!;
}

/** Where its shared disks are seen; room for a second time is taken for none of those. */
async function takeRoom(tx: Tx, core: ResourceCore, row: InstanceRow, { disks }: Rescue, fromNode: string) {
  const remade = disks.filter(({ from }) => from !== 'shared');
  const diskGiB = remade.reduce((sum, { sizeGiB }) => sum + sizeGiB, 0);
  const choice = await placementChoice(tx, core, row.placement ?? undefined);
  const demand = { vcpus: row.vcpus, memoryMiB: row.memory_mib, diskGiB };
  const required = [...(choice.required ?? []), ...(await onTheirStorage(tx, disks))];
  const never = [fromNode, ...(await stillHaving(tx, core, disks)), ...(choice.never ?? [])];
  const toNode = await reserveNode(tx, core, demand, { ...choice, required, never });
  for (const { id, sizeGiB } of remade) await splitReservation(tx, core.id, id, sizeGiB);
  return toNode;
}

async function onTheirStorage(tx: Tx, disks: readonly DiskRescue[]): Promise<Requirement[]> {
  const names = [...new Set(disks.flatMap(({ storage }) => storage ?? []))];
  if (names.length === 0) return [];
  const nodes = await sql<{ id: string }>`
    select n.id from node n where n.storage = all(${names}::text[])`.execute(tx);
  const asks = `on shared storage ${names.join(' and ')}`;
  return [{ name: 'disks', asks, only: new Set(nodes.rows.map(({ id }) => id)) }];
}

/** Nodes that have something of it from before, which goes first. */
async function stillHaving(tx: Tx, { tenantId, id }: Who, disks: readonly DiskRescue[]): Promise<string[]> {
  const things = [id, ...disks.map((disk) => disk.id)];
  const nodes = await sql<{ id: string }>`
    select distinct p.node_id as id from placement p
    where p.tenant_id = ${tenantId} and p.resource_id = any(${things}::uuid[])`.execute(tx);
  return nodes.rows.map((node) => node.id);
}

/** Whether a machine loses anything by it but what was only in its memory. */
export function losesAnything({ disks }: Pick<Rescue, 'disks'>): boolean {
  return disks.some(({ from }) => from !== 'shared');
}

/** What is lost, for the plan and for the condition that stays. */
export function lossWords({ disks }: Pick<Rescue, 'disks'>, nodeName: string): string {
  if (!losesAnything({ disks })) {
    const whole = `Started elsewhere when node ${nodeName} was lost, as after a power cut. Nothing on its disks is lost: `;
    return `${whole}they lie on shared storage.`;
  }
  const each = disks.map(({ name, from, image, lostSince, lostSnapshots }) => {
    if (from === 'shared') return `disk “${name}” has lost nothing: it lies on shared storage`;
    const since = `what was written since ${lostSince?.toISOString()} is lost`;
    const made = from === 'nothing' ? 'is empty' : `is as the image “${image!.name}” has it`;
    const gone = lostSnapshots.length > 0 ? `, and so are its snapshots ${lostSnapshots.join(', ')}` : '';
    return `disk “${name}” ${made}: ${since}${gone}`;
  });
  return `Made anew when node ${nodeName} was lost. ${each.join('; ')}.`.slice(0, 1000);
}
