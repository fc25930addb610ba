/** Kind instance: a virtual machine on one node, with disks, and an address on each of its networks. */
import { type FieldError, type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import {
  addBootDisk,
  detachAll,
  endMove,
  forgetTaken,
  MAKE_DISK_MS,
  ownBootDisk,
  releaseBootDisk,
  retireBootDisk,
  settleBootDisk,
  takeDisks,
  tellDisk,
} from '#libs/kinds/disk';
import {
  leaveNode,
  lockNetworks,
  placeNetworks,
  refreshNetworks,
  releaseLeasesOf,
  renameLeasesOf,
} from '#libs/kinds/network';
import {
  askDeed,
  placementsOf,
  probeAbsent,
  probeDeed,
  probeReady,
  releaseReservation,
  splitReservation,
  withdraw,
  withdrawDeed,
} from '#libs/nodes';
import { addEdges, type Claim, dropEdges, type Job, RowResource } from '#libs/resources';
import { claimAddresses, claimNode } from './claims.js';
import { move } from './moving.js';
import { claimMove, type MoveWish } from './moving-claim.js';
import { tellInstance, tellInstanceAgain } from './on-node.js';
import { checkReferences, type References } from './references.js';
import { obeyRestartPolicy } from './restart-policy.js';
import { type InstanceDocument, type InstanceRow, insertInstance, refuseRestoring } from './rows.js';
import { claimSize, holdSize } from './size.js';

export class InstanceResource extends RowResource<InstanceDocument, InstanceRow> {
  private references: References | undefined;

  protected documentOf(row: InstanceRow) {
    const boot = row.disks.find(({ bootOrder }) => bootOrder !== null);
    return {
      ...(row.image_id === null ? { bootDisk: boot?.id } : { image: row.image_id, diskGiB: boot?.sizeGiB }),
      vcpus: row.vcpus,
      memoryMiB: row.memory_mib,
      interfaces: row.interfaces.map(({ network, ip }) => ({ network, ip })),
      sshKeys: row.ssh_keys,
      ...(row.placement && { placement: row.placement }),
      desiredPowerState: row.desired_power_state,
      restartPolicy: row.restart_policy,
    };
  }

  /** What it was seen to be, by the loaded row. */
  get powerState(): string {
    return this.row?.power_state ?? 'unknown';
  }

  async validate(isNew: boolean): Promise<FieldError[]> {
    if (!isNew) return [];
    const { errors, references } = await checkReferences(this.scope, this.asked);
    this.references = references;
    return errors;
  }

  async claim(tx: Tx, claim: Claim<InstanceDocument>): Promise<void> {
    if (claim.action === 'update') return this.claimUpdate(tx, claim);
    if (claim.isRetry) return this.claimAgain(tx);
    const { image, diskGiB, disks, networks } = this.references!;
    const { tenantId } = this.core;
    await addEdges(
      tx,
      this.core,
      [...networks.values()].map(({ id }) => ({
        targetTenantId: tenantId,
        targetId: id,
        relation: 'is attached to',
      })),
      (id) => new RhyzomeError('conflict', `${id} is being removed; take another.`),
    );
    await insertInstance(tx, this.core, this.asked, image?.id ?? null);
    await claimAddresses(tx, this.core, this.asked.interfaces, networks);
    const ids = [...networks.values()].map(({ id }) => id);
    const wishes = { disks, networks: ids, placement: this.asked.placement };
    const nodeId = await claimNode(tx, this.core, { ...this.size, diskGiB }, wishes);
    if (image) await addBootDisk(tx, this.core, { sizeGiB: diskGiB, image, nodeId });
    await takeDisks(tx, this.core, disks, image === undefined);
  }

  private get size() {
    return { vcpus: this.asked.vcpus, memoryMiB: this.asked.memoryMiB };
  }

  /** What a failed create keeps are its name and addresses; the room has to be found again. */
  private async claimAgain(tx: Tx): Promise<void> {
    const { disks, interfaces } = this.row!;
    const own = disks.find(({ isOwn }) => isOwn);
    const networks = interfaces.map(({ network }) => network);
    await lockNetworks(tx, this.core.tenantId, networks);
    const wishes = { disks: disks.filter(({ isOwn }) => !isOwn), networks, placement: this.asked.placement };
    const nodeId = await claimNode(tx, this.core, { ...this.size, diskGiB: own?.sizeGiB ?? 0 }, wishes);
    if (own) await this.placeOwnDisk(tx, own, nodeId);
  }

  private async placeOwnDisk(tx: Tx, own: { id: string; sizeGiB: number }, nodeId: string): Promise<void> {
    const { tenantId } = this.core;
    await splitReservation(tx, this.core.id, own.id, own.sizeGiB);
    await tx
      .updateTable('disk')
      .set({ node_id: nodeId })
      .where('tenant_id', '=', tenantId)
      .where('id', '=', own.id)
      .execute();
    await settleBootDisk(tx, { tenantId, id: own.id }, 'pending');
  }

  private async claimUpdate(tx: Tx, claim: { previous: InstanceDocument; isRestore: boolean }): Promise<void> {
    const { tenantId, id, name } = this.core;
    const { previous, isRestore } = claim;
    const desired_power_state = this.asked.desiredPowerState ?? 'running';
    if (desired_power_state === 'running' && !isRestore) await refuseRestoring(tx, this.core);
    await tx
      .updateTable('instance')
      .set({ desired_power_state, restart_policy: this.asked.restartPolicy ?? 'stay' })
      .where('tenant_id', '=', tenantId)
      .where('id', '=', id)
      .execute();
    const hasOtherTags = JSON.stringify(previous.tags ?? {}) !== JSON.stringify(this.asked.tags ?? {});
    if (previous.name !== name || isRestore) await renameLeasesOf(tx, tenantId, id, name);
    // Host names and what firewall rules select by tags are the networks'.
    if (previous.name !== name || hasOtherTags || isRestore) {
      const ids = this.asked.interfaces.map(({ network }) => network);
      await refreshNetworks(tx, tenantId, ids);
    }
    // After the networks, as a create takes them: two that lock the same things do it in one order.
    const { vcpus, memoryMiB } = this.asked;
    await claimSize(tx, this.core, { vcpus, memoryMiB }, await this.fresh(tx), isRestore);
    // The steps of the job that failed or was cancelled told the node; restored values have to be told, too.
    if (isRestore) await tellInstanceAgain(tx, this.core);
  }

  async release(tx: Tx): Promise<void> {
    const { tenantId, id } = this.core;
    await endMove(tx, this.core);
    await releaseLeasesOf(tx, tenantId, id);
    const ids = this.row?.interfaces.map(({ network }) => network) ?? [];
    await refreshNetworks(tx, tenantId, ids);
    await releaseBootDisk(tx, this.core);
    await detachAll(tx, tenantId, id);
    await dropEdges(tx, this.core);
    await releaseReservation(tx, this.core);
    await tx.deleteFrom('deed').where('tenant_id', '=', tenantId).where('resource_id', '=', id).execute();
  }

  async settled(tx: Tx, action: string, outcome: string): Promise<void> {
    if (action === 'migrate') await endMove(tx, this.core);
    if (action !== 'create' && outcome === 'succeeded') await forgetTaken(tx, this.core.tenantId, this.core.id);
    const row = await this.fresh(tx);
    if (action === 'create') await this.settleCreate(tx, outcome);
    else if (outcome === 'succeeded') {
      await holdSize(tx, this.core, { vcpus: row.vcpus, memoryMiB: row.memory_mib });
    }
    // A guest that left while the job was under way: nobody has acted on it yet.
    const placements = await placementsOf(tx, this.core);
    const placement = placements.find(({ isPresent, nodeId }) => isPresent && nodeId === row.node_id);
    const isOff = placement?.isCurrent && placement.phase === 'ready' && placement.status?.powerState === 'stopped';
    if (isOff && row.desired_power_state === 'running') {
      await obeyRestartPolicy(tx, this.core, row, () => tellInstance(tx, this.core, true));
    }
  }

  /** What failed to start holds its name and addresses, but no machine's room. */
  private async settleCreate(tx: Tx, outcome: string): Promise<void> {
    const disk = await ownBootDisk(tx, this.core);
    if (outcome === 'failed') {
      await releaseReservation(tx, this.core);
      if (disk) await releaseReservation(tx, disk);
    }
    if (disk) await settleBootDisk(tx, disk, outcome === 'succeeded' ? 'ready' : 'failed');
  }

  async create(core: ResourceCore, job: Job<Tx>): Promise<void> {
    const makesDisk = this.asked.image !== undefined;
    job.plan(makesDisk ? 4 : 2);
    if (makesDisk) {
      await job.ask('make the boot disk', {
        act: async (tx) => {
          const disk = await ownBootDisk(tx, core);
          if (disk) await tellDisk(tx, disk);
          return disk?.id;
        },
        newsOf: (disk) => disk,
        undo: async (tx) => {
          const disk = await ownBootDisk(tx, core);
          if (disk) await withdraw(tx, disk);
        },
        undone: async (tx) => {
          const disk = await ownBootDisk(tx, core);
          return disk ? probeAbsent(tx, disk) : true;
        },
        until: {
          name: 'boot disk is there',
          deadlineMs: MAKE_DISK_MS,
          probe: async (tx) => {
            const disk = await ownBootDisk(tx, core);
            return disk ? this.reached(tx, disk) : 'kept';
          },
        },
      });
    }
    await job.ask('place on a node', {
      message: `placed on node ${this.row?.node ?? 'unknown'}`,
      act: async (tx) => {
        const { node_id, interfaces } = await this.fresh(tx);
        if (!node_id) throw new RhyzomeError('no_capacity', 'No node is reserved for it.');
        const ids = interfaces.map(({ network }) => network);
        await placeNetworks(tx, core.tenantId, node_id, ids);
        await tellInstance(tx, core);
      },
      undo: (tx) => withdraw(tx, core),
      undone: (tx) => this.leftNode(tx),
      until: { name: 'machine runs', probe: (tx) => this.reached(tx, core) },
    });
  }

  async update(job: Job<Tx>): Promise<void> {
    job.plan(2);
    // Its undo is the settling transaction, which restores the previous values and tells the node.
    await job.ask('tell the node', {
      act: (tx) => tellInstance(tx, this.core),
      until: { name: 'machine is as wanted', probe: (tx) => this.reached(tx, this.core) },
    });
  }

  async remove(job: Job<Tx>): Promise<void> {
    job.plan(4);
    await job.ask('take the machine away', {
      act: (tx) => withdraw(tx, this.core),
      cancellable: false,
      until: { name: 'machine is gone', probe: (tx) => this.leftNode(tx) },
    });
    const goes = await job.step('let its disk go', { act: (tx) => retireBootDisk(tx, this.core) });
    if (!goes) return;
    await job.wait('its disk is gone', async (tx) => {
      const disk = await ownBootDisk(tx, this.core);
      return disk ? probeAbsent(tx, disk) : true;
    });
  }

  /** Throws RhyzomeError as claimMove does. */
  async claimMove(tx: Tx, wish: MoveWish): Promise<void> {
    await claimMove(tx, this.core, await this.fresh(tx), wish, this.scope.actor);
  }

  async perform(action: string, job: Job<Tx>): Promise<void> {
    if (action === 'migrate') return move(job, this.core);
    job.plan(2);
    const { id: deed } = job;
    await job.ask(`ask for ${action}`, {
      act: async (tx) => {
        const { node_id } = await this.fresh(tx);
        if (!node_id) throw new RhyzomeError('not_ready', 'The instance is on no node.');
        // A second reboot or reset of a machine that is coming up does no harm.
        await askDeed(tx, this.core, { id: deed, nodeId: node_id, verb: action, repeatable: true });
      },
      undo: (tx) => withdrawDeed(tx, this.core, deed),
      until: { name: `${action} is done`, probe: (tx) => probeDeed(tx, this.core, deed) },
    });
  }

  /** Absent on the node; then the networks that nobody else there uses leave, too. */
  private async leftNode(tx: Tx): Promise<true | Waiting> {
    const answer = await probeAbsent(tx, this.core);
    if (answer !== true) return answer;
    const { node_id, interfaces } = await this.fresh(tx);
    const ids = interfaces.map(({ network }) => network);
    if (node_id) await leaveNode(tx, this.core.tenantId, node_id, ids, this.core.id);
    return true;
  }

  private async reached(tx: Tx, who: Pick<ResourceCore, 'tenantId' | 'id'>): Promise<string | Waiting> {
    const answer = await probeReady(tx, who);
    if (answer instanceof Waiting) return answer;
    return String(answer[0]?.status?.powerState ?? 'ready');
  }
}
