/** Kind instance: a virtual machine on one node, with an address on each of its networks. */
import { type FieldError, notFound, type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import type { InstanceSpec } from '#libs/drivers/contract';
import { leaveNode, placeNetworks, refreshNetworks, releaseLeasesOf, renameLeasesOf } from '#libs/kinds/network';
import { askDeed, desire, placementsOf, probeAbsent, probeDeed, probeReady, withdraw, withdrawDeed } from '#libs/nodes';
import {
  addEdges,
  type Claim,
  type CoreDocument,
  type CoreRow,
  coreOf,
  dropEdges,
  findResource,
  type Job,
  type KindDefinition,
  type KindResource,
  type RowScope,
} from '#libs/resources';
import { claimAddresses, claimNode, releaseNode } from './claims.js';
import { checkReferences, type References } from './references.js';
import { obeyRestartPolicy } from './restart-policy.js';

export interface InstanceDocument extends CoreDocument {
  image: string;
  vcpus: number;
  memoryMiB: number;
  diskGiB?: number;
  interfaces: { network: string; ip?: string }[];
  desiredPowerState?: 'running' | 'stopped';
  restartPolicy?: 'stay' | 'always';
}

export interface InstanceRow extends CoreRow {
  image_id: string;
  image_tenant_id: string;
  vcpus: number;
  memory_mib: number;
  disk_gib: number | null;
  desired_power_state: 'running' | 'stopped';
  power_state: string;
  restart_policy: 'stay' | 'always';
  node_id: string | null;
  node: string | null;
  interfaces: { network: string; ip: string; mac: string }[];
  content: { sha256: string; format: 'qcow2' | 'raw'; sizeBytes: number; virtualSizeBytes: number };
}

export class InstanceResource implements KindResource<InstanceDocument> {
  private core!: ResourceCore;
  private asked!: InstanceDocument;
  private row: InstanceRow | undefined;
  private references: References | undefined;

  constructor(
    private readonly scope: RowScope,
    private readonly kind: KindDefinition,
  ) {}

  getCore(): ResourceCore {
    return this.core;
  }

  async load(core: ResourceCore): Promise<this> {
    const row = (await findResource(this.scope, this.kind, core.id)) as InstanceRow | undefined;
    if (!row) throw notFound('instance', core.id);
    this.row = row;
    this.core = coreOf(row);
    this.asked = {
      name: row.name,
      tags: row.tags,
      deletionProtection: row.deletion_protection,
      image: row.image_id,
      vcpus: row.vcpus,
      memoryMiB: row.memory_mib,
      ...(row.disk_gib !== null && { diskGiB: row.disk_gib }),
      interfaces: row.interfaces.map(({ network, ip }) => ({ network, ip })),
      desiredPowerState: row.desired_power_state,
      restartPolicy: row.restart_policy,
    };
    return this;
  }

  propose(core: ResourceCore, document: InstanceDocument): void {
    this.core = core;
    this.asked = document;
  }

  document(): InstanceDocument {
    return this.asked;
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
    if (claim.isRetry) return claimNode(tx, this.core, this.demand());
    const { image, networks } = this.references!;
    await addEdges(
      tx,
      this.core,
      [
        { targetTenantId: image.tenantId, targetId: image.id, relation: 'boots from' },
        ...[...networks.values()].map(({ id }) => ({
          targetTenantId: this.core.tenantId,
          targetId: id,
          relation: 'is attached to',
        })),
      ],
      (id) => new RhyzomeError('conflict', `${id} is being removed; take another.`),
    );
    await tx
      .insertInto('instance')
      .values({
        tenant_id: this.core.tenantId,
        id: this.core.id,
        image_tenant_id: image.tenantId,
        image_id: image.id,
        vcpus: this.asked.vcpus,
        memory_mib: this.asked.memoryMiB,
        disk_gib: this.asked.diskGiB ?? null,
        desired_power_state: this.asked.desiredPowerState ?? 'running',
        restart_policy: this.asked.restartPolicy ?? 'stay',
      })
      .execute();
    await claimAddresses(tx, this.core, this.asked.interfaces, networks);
    await claimNode(tx, this.core, this.demand());
  }

  private demand() {
    const bytes = this.references?.image.virtualSizeBytes ?? this.row?.content.virtualSizeBytes ?? 0;
    return {
      vcpus: this.asked.vcpus,
      memoryMiB: this.asked.memoryMiB,
      diskGiB: this.asked.diskGiB ?? Math.ceil(bytes / 2 ** 30),
    };
  }

  private async claimUpdate(tx: Tx, claim: { previous: InstanceDocument; isRestore: boolean }): Promise<void> {
    const { tenantId, id, name } = this.core;
    const desired_power_state = this.asked.desiredPowerState ?? 'running';
    const restart_policy = this.asked.restartPolicy ?? 'stay';
    await tx
      .updateTable('instance')
      .set({ desired_power_state, restart_policy })
      .where('tenant_id', '=', tenantId)
      .where('id', '=', id)
      .execute();
    if (claim.previous.name !== name || claim.isRestore) {
      await renameLeasesOf(tx, tenantId, id, name);
      const ids = this.asked.interfaces.map(({ network }) => network);
      await refreshNetworks(tx, tenantId, ids);
    }
    // The steps of the job that failed or was cancelled told the node; restored values have to be told, too.
    if (claim.isRestore) await this.tellNode(tx);
  }

  async release(tx: Tx): Promise<void> {
    const { tenantId, id } = this.core;
    await releaseLeasesOf(tx, tenantId, id);
    const ids = this.row?.interfaces.map(({ network }) => network) ?? [];
    await refreshNetworks(tx, tenantId, ids);
    await dropEdges(tx, this.core);
    await releaseNode(tx, this.core);
    await tx.deleteFrom('deed').where('tenant_id', '=', tenantId).where('resource_id', '=', id).execute();
  }

  async settled(tx: Tx, action: string, outcome: string): Promise<void> {
    // What failed to start holds its name and address, but no machine's room.
    if (action === 'create' && outcome === 'failed') await releaseNode(tx, this.core);
    // A guest that left while the job was under way: nobody has acted on it yet.
    const row = await this.fresh(tx);
    const placement = (await placementsOf(tx, this.core)).find(({ isPresent }) => isPresent);
    const isOff = placement?.isCurrent && placement.phase === 'ready' && placement.status?.powerState === 'stopped';
    if (isOff && row.desired_power_state === 'running') {
      await obeyRestartPolicy(tx, this.core, row, () => this.tellNode(tx, true));
    }
  }

  async create(core: ResourceCore, job: Job<Tx>): Promise<void> {
    job.plan(2);
    await job.step('place on a node', {
      message: `placed on node ${this.row?.node ?? 'unknown'}`,
      act: async (tx) => {
        const { node_id, interfaces } = await this.fresh(tx);
        if (!node_id) throw new RhyzomeError('no_capacity', 'No node is reserved for it.');
        await placeNetworks(
          tx,
          core.tenantId,
          node_id,
          interfaces.map(({ network }) => network),
        );
        await this.tellNode(tx);
      },
      undo: (tx) => withdraw(tx, core),
      undone: (tx) => this.leftNode(tx),
    });
    await job.wait('machine runs', (tx) => this.reached(tx));
  }

  async update(job: Job<Tx>): Promise<void> {
    job.plan(2);
    // Its undo is the settling transaction, which restores the previous values and tells the node.
    await job.step('tell the node', { act: (tx) => this.tellNode(tx) });
    await job.wait('machine is as wanted', (tx) => this.reached(tx));
  }

  async remove(job: Job<Tx>): Promise<void> {
    job.plan(2);
    await job.step('take the machine away', { act: (tx) => withdraw(tx, this.core), cancellable: false });
    await job.wait('machine is gone', (tx) => this.leftNode(tx));
  }

  async perform(action: string, job: Job<Tx>): Promise<void> {
    job.plan(2);
    const { id: deed } = job;
    await job.step(`ask for ${action}`, {
      act: async (tx) => {
        const { node_id } = await this.fresh(tx);
        if (!node_id) throw new RhyzomeError('not_ready', 'The instance is on no node.');
        // A second reboot of a machine that is coming up does no harm.
        await askDeed(tx, this.core, { id: deed, nodeId: node_id, verb: action, repeatable: true });
      },
      undo: (tx) => withdrawDeed(tx, this.core, deed),
    });
    await job.wait(`${action} is done`, (tx) => probeDeed(tx, this.core, deed));
  }

  /** Absent on the node; then the networks that nobody else there uses leave, too. */
  private async leftNode(tx: Tx): Promise<true | Waiting> {
    const answer = await probeAbsent(tx, this.core);
    if (answer !== true) return answer;
    const { node_id, interfaces } = await this.fresh(tx);
    if (node_id) {
      await leaveNode(
        tx,
        this.core.tenantId,
        node_id,
        interfaces.map(({ network }) => network),
        this.core.id,
      );
    }
    return true;
  }

  private async reached(tx: Tx): Promise<string | Waiting> {
    const answer = await probeReady(tx, this.core);
    if (answer instanceof Waiting) return answer;
    return String(answer[0]?.status?.powerState ?? 'unknown');
  }

  /** Writes what the node should make of it, as the rows stand in this transaction. */
  async tellNode(tx: Tx, again = false): Promise<void> {
    const row = await this.fresh(tx);
    if (!row.node_id) return;
    const spec: InstanceSpec = {
      name: row.name,
      vcpus: row.vcpus,
      memoryMiB: row.memory_mib,
      diskGiB: row.disk_gib,
      image: row.content,
      interfaces: row.interfaces.map(({ network, ip, mac }) => ({ networkId: network, ip, mac })),
      powerState: row.desired_power_state,
      restartPolicy: row.restart_policy,
    };
    await desire(tx, this.core, row.node_id, { generation: row.generation, spec, again });
  }

  private async fresh(tx: Tx): Promise<InstanceRow> {
    const scope: RowScope = {
      tenantId: this.core.tenantId,
      builder: this.scope.builder,
      rows: async (query) => (await tx.executeQuery(query)).rows,
    };
    const row = await findResource(scope, this.kind, this.core.id);
    if (!row) throw notFound('instance', this.core.id);
    return row as InstanceRow;
  }
}
