/** Kind snapshot: the fixed state of a disk at one moment, taken on the disk's node while its machine goes on. */
import { sql } from 'kysely';
import { type FieldError, type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import { unendedJob } from '#libs/jobs';
import { findDisks, lockUsableDisk } from '#libs/kinds/disk';
import { askDeed, desire, placementsOf, probeAbsent, probeDeed, probeReady, withdraw, withdrawDeed } from '#libs/nodes';
import {
  addEdges,
  type Claim,
  type CoreDocument,
  type CoreRow,
  dropEdges,
  type Job,
  RowResource,
} from '#libs/resources';

export interface SnapshotDocument extends CoreDocument {
  disk: string;
}

export interface SnapshotRow extends CoreRow {
  disk_id: string;
  size_bytes: number | null;
  virtual_size_bytes: number | null;
  /** Of the disk. */
  node_id: string | null;
}

export class SnapshotResource extends RowResource<SnapshotDocument, SnapshotRow> {
  private diskId = '';

  protected documentOf(row: SnapshotRow) {
    return { disk: row.disk_id };
  }

  async validate(isNew: boolean): Promise<FieldError[]> {
    if (!isNew) return [];
    const disk = (await findDisks(this.scope, [this.asked.disk])).get(this.asked.disk);
    this.diskId = disk?.id ?? '';
    return disk ? [] : [{ pointer: '/disk', code: 'not_found', message: 'is no disk that you may use' }];
  }

  async claim(tx: Tx, claim: Claim<SnapshotDocument>): Promise<void> {
    if (claim.action === 'update') return claim.isRestore ? this.tell(tx) : undefined;
    const { tenantId, id } = this.core;
    if (claim.isRetry) {
      await lockUsableDisk(tx, tenantId, this.asked.disk);
      return;
    }
    await lockUsableDisk(tx, tenantId, this.diskId);
    const edge = { targetTenantId: tenantId, targetId: this.diskId, relation: 'is of' };
    await addEdges(tx, this.core, [edge], () => new RhyzomeError('not_ready', 'The disk is being removed.'));
    await tx.insertInto('snapshot').values({ tenant_id: tenantId, id, disk_id: this.diskId }).execute();
  }

  async release(tx: Tx): Promise<void> {
    const { tenantId, id } = this.core;
    await this.letDiskGo(tx);
    await dropEdges(tx, this.core);
    await tx.deleteFrom('deed').where('tenant_id', '=', tenantId).where('resource_id', '=', id).execute();
  }

  /** No job of the snapshot sets its disk back any more; also a removal may have taken a restore's place. */
  private async letDiskGo(tx: Tx): Promise<void> {
    await tx
      .updateTable('disk')
      .set({ restoring: null })
      .where('tenant_id', '=', this.core.tenantId)
      .where('restoring', '=', this.core.id)
      .execute();
  }

  async settled(tx: Tx, action: string, outcome: string): Promise<void> {
    const { tenantId, id } = this.core;
    await this.letDiskGo(tx);
    if (action !== 'create' || outcome !== 'succeeded') return;
    const [placement] = await placementsOf(tx, this.core);
    const { sizeBytes, virtualSizeBytes } = placement?.status ?? {};
    await tx
      .updateTable('snapshot')
      .set({ size_bytes: bytesFrom(sizeBytes), virtual_size_bytes: bytesFrom(virtualSizeBytes) })
      .where('tenant_id', '=', tenantId)
      .where('id', '=', id)
      .execute();
  }

  async create(core: ResourceCore, job: Job<Tx>): Promise<void> {
    job.plan(2);
    await job.ask('ask for the snapshot', {
      act: (tx) => this.tell(tx),
      undo: (tx) => withdraw(tx, core),
      undone: (tx) => probeAbsent(tx, core),
      until: { name: 'snapshot is taken', probe: (tx) => this.reached(tx) },
    });
  }

  /** Names, tags and protection are the database's alone; the node learns which generation it has. */
  async update(job: Job<Tx>): Promise<void> {
    job.plan(2);
    await job.ask('tell the node', {
      act: (tx) => this.tell(tx),
      until: { name: 'node knows', probe: (tx) => this.reached(tx) },
    });
  }

  private async tell(tx: Tx): Promise<void> {
    const { node_id, disk_id, generation } = await this.fresh(tx);
    if (!node_id) throw new RhyzomeError('not_ready', 'The disk is on no node.');
    await desire(tx, this.core, node_id, { generation, spec: { diskId: disk_id } });
  }

  async remove(job: Job<Tx>): Promise<void> {
    job.plan(2);
    await job.ask('take it from the disk', {
      act: (tx) => withdraw(tx, this.core),
      cancellable: false,
      until: { name: 'snapshot is gone', probe: (tx) => probeAbsent(tx, this.core) },
    });
  }

  /** Whether the disk can be set back now, and that nothing else happens to it meanwhile. Throws `not_ready`, `busy`. */
  async claimRestore(tx: Tx): Promise<void> {
    const { tenantId, id } = this.core;
    const disk = await lockUsableDisk(tx, tenantId, this.asked.disk);
    for (const subject of [disk.id, disk.instanceId]) {
      const running = subject && (await unendedJob(tx, tenantId, subject));
      if (!running) continue;
      throw new RhyzomeError('busy', `Job ${running.id} (${running.action}) of the ${running.kind} has not ended.`, {
        blockers: [{ kind: 'job', id: running.id, name: running.action, relation: 'running' }],
        retryAfterSeconds: 1,
      });
    }
    if (disk.instanceId) await refuseRunning(tx, tenantId, disk.instanceId);
    await tx
      .updateTable('disk')
      .set({ restoring: id })
      .where('tenant_id', '=', tenantId)
      .where('id', '=', disk.id)
      .execute();
  }

  async perform(action: string, job: Job<Tx>): Promise<void> {
    job.plan(2);
    const { id: deed } = job;
    await job.ask('set the disk back', {
      act: async (tx) => {
        const { node_id } = await this.fresh(tx);
        if (!node_id) throw new RhyzomeError('not_ready', 'The disk is on no node.');
        await askDeed(tx, this.core, { id: deed, nodeId: node_id, verb: action, repeatable: false });
      },
      undo: (tx) => withdrawDeed(tx, this.core, deed),
      cancellable: false,
      until: { name: 'disk is as it was then', probe: (tx) => probeDeed(tx, this.core, deed) },
    });
  }

  private async reached(tx: Tx): Promise<true | Waiting> {
    const answer = await probeReady(tx, this.core);
    return answer instanceof Waiting ? answer : true;
  }
}

/** A node's word, where it is a size at all: a column that could not hold it would keep the job from ending. */
function bytesFrom(said: unknown): number | null {
  return Number.isSafeInteger(said) && (said as number) >= 0 ? (said as number) : null;
}

async function refuseRunning(tx: Tx, tenantId: string, instanceId: string): Promise<void> {
  const result = await sql<{ name: string; desired: string; seen: string }>`
    select r.name, k.desired_power_state as desired, k.power_state as seen
    from resource r join instance k on k.tenant_id = r.tenant_id and k.id = r.id
    where r.tenant_id = ${tenantId} and r.id = ${instanceId} for no key update of r`.execute(tx);
  const machine = result.rows[0];
  if (!machine || (machine.desired === 'stopped' && machine.seen === 'stopped')) return;
  throw new RhyzomeError('not_ready', 'The instance that has the disk runs; stop it first.', {
    blockers: [{ kind: 'instance', id: instanceId, name: machine.name, relation: 'has attached' }],
  });
}
