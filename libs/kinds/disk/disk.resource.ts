/** Kind disk: a volume on one node, empty or made from an image or a snapshot, that can be attached to an instance there. */
import { sql } from 'kysely';
import { type FieldError, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { holdLentContent } from '#libs/kinds/image';
import { probeAbsent, probeReady, releaseReservation, reserveNode, shrinkReservation, withdraw } from '#libs/nodes';
import {
  addEdges,
  type Claim,
  type CoreDocument,
  dropEdges,
  inTransaction,
  type Job,
  RowResource,
  refreshResource,
} from '#libs/resources';
import { attachTo, detachFrom, findMachine } from './attaching.js';
import { keepDeleted } from './deleted.js';
import { endMove } from './moves.js';
import { claimDiskMove, moveAlone } from './moving-alone.js';
import { MAKE_DISK_MS, tellDisk } from './on-node.js';
import {
  type DiskImage,
  type DiskRow,
  GIB,
  gibOf,
  imageColumns,
  imageEdge,
  lockUsableDisk,
  refuseMoving,
} from './rows.js';
import { findSources, type Sources } from './sources.js';

export interface DiskDocument extends CoreDocument {
  sizeGiB?: number;
  image?: string;
  snapshot?: string;
  /** Changed by attach and detach only. */
  instance?: string;
}

export class DiskResource extends RowResource<DiskDocument, DiskRow> {
  private sources: Sources = {};

  protected documentOf(row: DiskRow) {
    return {
      sizeGiB: row.size_gib,
      ...(row.image_id !== null && { image: row.image_id }),
      ...(row.snapshot_id !== null && { snapshot: row.snapshot_id }),
      ...(row.instance_id !== null && { instance: row.instance_id }),
    };
  }

  /** Its instance boots from it. */
  get isBootDisk(): boolean {
    return this.row?.boot_order !== null && this.row?.boot_order !== undefined;
  }

  async validate(isNew: boolean): Promise<FieldError[]> {
    if (!isNew) return this.shrinks();
    const { errors, sources } = await findSources(this.scope, this.asked);
    this.sources = sources;
    return errors;
  }

  private shrinks(): FieldError[] {
    const now = this.row?.size_gib ?? 0;
    this.asked.sizeGiB ??= now;
    if (this.asked.sizeGiB >= now) return [];
    return [{ pointer: '/sizeGiB', code: 'out_of_range', message: `cannot shrink below its ${now} GiB` }];
  }

  private get demand() {
    return { vcpus: 0, memoryMiB: 0, diskGiB: this.asked.sizeGiB! };
  }

  async claim(tx: Tx, claim: Claim<DiskDocument>): Promise<void> {
    if (claim.action === 'update') return this.claimUpdate(tx, claim);
    if (claim.isRetry) {
      const { node_id } = await this.fresh(tx);
      await this.place(tx, node_id);
      return;
    }
    const { image, snapshot } = this.sources;
    const from = snapshot ? await lockUsableDisk(tx, this.core.tenantId, snapshot.diskId) : undefined;
    await addEdges(tx, this.core, this.edges(), (id) => new RhyzomeError('conflict', `${id} is being removed.`));
    if (image) await holdLentContent(tx, this.core.tenantId, image);
    const least = snapshot ? snapshot.virtualSizeBytes : (image?.virtualSizeBytes ?? GIB);
    this.asked.sizeGiB ??= gibOf(least);
    await insertDisk(tx, this.core, this.asked.sizeGiB, snapshot ? snapshot.image : (image ?? null), {
      snapshot_id: snapshot?.id ?? null,
      snapshot_disk_id: snapshot?.diskId ?? null,
    });
    // What a snapshot holds lies with its disk.
    await this.place(tx, from?.nodeId ?? null);
  }

  /** Takes room on a node: on this one, or on any. */
  private async place(tx: Tx, nodeId: string | null): Promise<void> {
    const choice = nodeId === null ? {} : { only: [nodeId] };
    await this.write(tx, { node_id: await reserveNode(tx, this.core, this.demand, choice) });
  }

  private edges() {
    const { image, snapshot } = this.sources;
    const { tenantId } = this.core;
    const own = snapshot && { targetTenantId: tenantId, targetId: snapshot.id, relation: 'is made from' };
    return [...imageEdge(tenantId, image), ...(own ? [own] : [])];
  }

  private async claimUpdate(tx: Tx, { isRestore }: { isRestore: boolean }): Promise<void> {
    const now = await this.fresh(tx);
    const { sizeGiB, instance } = this.asked;
    if (!now.made) return this.claimUnmade(tx, now);
    if (!isRestore) await refuseMoving(tx, this.core);
    if (isRestore) await shrinkReservation(tx, this.core.id, this.demand);
    else if (sizeGiB !== now.size_gib) {
      await reserveNode(tx, this.core, this.demand, { only: now.node_id ? [now.node_id] : [], stays: true });
    }
    await this.write(tx, { size_gib: sizeGiB! });
    const holder = now.instance_id ?? undefined;
    if (instance !== holder) {
      if (holder) await detachFrom(tx, this.core);
      if (instance) await (isRestore ? this.attachAgain(tx, instance) : attachTo(tx, this.core, instance));
    }
    if (!isRestore) return;
    // The steps of the job that failed or was cancelled told the nodes; restored values have to be told, too.
    await tellDisk(tx, this.core);
    for (const id of new Set([instance, holder])) {
      if (id && instance !== holder) await refreshResource(tx, 'instance', this.core.tenantId, id);
    }
  }

  /** One whose create failed holds no room and stands on no node; its size counts when that is tried again. */
  private async claimUnmade(tx: Tx, now: DiskRow): Promise<void> {
    if (now.with_instance) {
      throw new RhyzomeError('not_ready', 'The disk is made with its instance, whose create has not succeeded.');
    }
    await this.write(tx, { size_gib: this.asked.sizeGiB! });
  }

  /** An instance that has begun to go since takes nothing back. */
  private async attachAgain(tx: Tx, instance: string): Promise<void> {
    const machine = await findMachine(inTransaction(tx, this.core.tenantId), instance);
    if (machine && machine.state !== 'deleting') await attachTo(tx, this.core, instance);
  }

  private async write(tx: Tx, values: { node_id?: string; size_gib?: number; made?: boolean }) {
    await tx
      .updateTable('disk')
      .set(values)
      .where('tenant_id', '=', this.core.tenantId)
      .where('id', '=', this.core.id)
      .execute();
  }

  async release(tx: Tx): Promise<void> {
    await endMove(tx, this.core);
    const row = await this.fresh(tx);
    if (!(await keepDeleted(tx, row))) await releaseReservation(tx, this.core);
    await dropEdges(tx, this.core);
  }

  /** Throws RhyzomeError as claimDiskMove does. */
  async claimMove(tx: Tx, toNode: string | undefined): Promise<void> {
    await claimDiskMove(tx, this.core, await this.fresh(tx), toNode, this.scope.actor);
  }

  async perform(_action: string, job: Job<Tx>): Promise<void> {
    await moveAlone(job, this.core);
  }

  async settled(tx: Tx, action: string, outcome: string): Promise<void> {
    if (action === 'migrate') await endMove(tx, this.core);
    if (action !== 'create') return;
    if (outcome === 'failed') await releaseReservation(tx, this.core);
    if (outcome !== 'succeeded') return;
    await this.write(tx, { made: true });
    await leaveSnapshot(tx, this.core);
  }

  async create(core: ResourceCore, job: Job<Tx>): Promise<void> {
    job.plan(2);
    await job.ask('make the disk', {
      message: `made on node ${this.row?.node ?? 'unknown'}`,
      act: (tx) => tellDisk(tx, core),
      undo: (tx) => withdraw(tx, core),
      undone: (tx) => probeAbsent(tx, core),
      until: {
        name: 'disk is there',
        deadlineMs: MAKE_DISK_MS,
        probe: async (tx) => readiness(await probeReady(tx, core)),
      },
    });
  }

  async update(job: Job<Tx>): Promise<void> {
    const { previous, document } = job.request as { previous: DiskDocument; document: DiskDocument };
    const { tenantId } = this.core;
    const machines = [...new Set([previous.instance, document.instance])].filter((id) => id !== undefined);
    const isMoved = previous.instance !== document.instance;
    job.plan(2);
    // The undo of both is the settling transaction, which restores the previous values and tells the node.
    await job.ask('tell the node', {
      act: async (tx) => {
        await tellDisk(tx, this.core);
        if (isMoved) for (const id of machines) await refreshResource(tx, 'instance', tenantId, id);
      },
      until: {
        name: isMoved ? 'machine has it so' : 'disk is as wanted',
        probe: async (tx) => {
          const own = readiness(await probeReady(tx, this.core));
          if (own !== 'ready' || !isMoved) return own;
          for (const id of machines) {
            const machine = readiness(await probeReady(tx, { tenantId, id }));
            if (machine !== 'ready') return machine;
          }
          return own;
        },
      },
    });
  }

  async remove(job: Job<Tx>): Promise<void> {
    job.plan(2);
    const { core } = this;
    const isKept = await job.step('decide what is kept', {
      act: async (tx) => {
        const row = await this.fresh(tx);
        const kept = row.made && row.node_id !== null && (await keptFor(tx)) !== null;
        if (!kept) await withdraw(tx, core);
        return kept;
      },
      cancellable: false,
    });
    if (!isKept) await job.wait('disk is gone', (tx) => probeAbsent(tx, core));
  }
}

function readiness(answer: Awaited<ReturnType<typeof probeReady>>) {
  return Array.isArray(answer) ? ('ready' as const) : answer;
}

/** How long deleted disks are kept, as PostgreSQL writes intervals; null: not at all. */
async function keptFor(tx: Tx): Promise<string | null> {
  const result = await sql<{ kept: string | null }>`select deleted_disks_kept::text as kept from installation`.execute(
    tx,
  );
  return result.rows[0]?.kept ?? null;
}

/** Writes a disk's own row. */
export async function insertDisk(
  tx: Tx,
  core: Pick<ResourceCore, 'tenantId' | 'id'>,
  sizeGiB: number,
  image: DiskImage | null,
  more: { snapshot_id?: string | null; snapshot_disk_id?: string | null; with_instance?: boolean } = {},
): Promise<void> {
  await tx
    .insertInto('disk')
    .values({ tenant_id: core.tenantId, id: core.id, size_gib: sizeGiB, ...imageColumns(image), ...more })
    .execute();
}

/** A disk that is made needs its snapshot no more. */
async function leaveSnapshot(tx: Tx, core: Pick<ResourceCore, 'tenantId' | 'id'>): Promise<void> {
  await sql`delete from dependency d using resource r
    where d.tenant_id = ${core.tenantId} and d.resource_id = ${core.id} and d.relation = 'is made from'
      and r.tenant_id = d.target_tenant_id and r.id = d.target_id and r.kind = 'snapshot'`.execute(tx);
}
