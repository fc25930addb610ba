/** Kind firewallrule: what may pass between a network's machines and everybody else. Part of that network. */
import type { FieldError, ResourceCore } from '#libs/core';
import type { Tx } from '#libs/db';
import {
  addPart,
  changePart,
  findNetwork,
  holdEdges,
  type NetworkPart,
  PART_RELATION,
  refuseFull,
  setPart,
  takePart,
} from '#libs/kinds/network';
import { type Claim, type CoreDocument, type CoreRow, dropEdges, type Job, RowResource } from '#libs/resources';
import { parsePorts } from './ports.js';

export interface FirewallruleDocument extends CoreDocument {
  network: string;
  priority: number;
  direction: 'in' | 'out';
  action: 'allow' | 'deny';
  protocol?: 'any' | 'tcp' | 'udp' | 'icmp';
  ports?: string[];
  remoteCidrs?: string[];
  remoteTags?: string;
  targetTags?: string;
}

export interface FirewallruleRow extends CoreRow {
  network_id: string;
  priority: number;
  direction: 'in' | 'out';
  action: 'allow' | 'deny';
  protocol: 'any' | 'tcp' | 'udp' | 'icmp';
  ports: string[];
  remote_cidrs: string[] | null;
  remote_tags: string | null;
  target_tags: string | null;
}

/** A packet passes all of them in turn. */
export const MAX_RULES = 200;

export class FirewallruleResource extends RowResource<FirewallruleDocument, FirewallruleRow> {
  private networkId: string | undefined;

  protected documentOf(row: FirewallruleRow) {
    return {
      network: row.network_id,
      priority: row.priority,
      direction: row.direction,
      action: row.action,
      protocol: row.protocol,
      ports: row.ports,
      ...(row.remote_cidrs !== null && { remoteCidrs: row.remote_cidrs }),
      ...(row.remote_tags !== null && { remoteTags: row.remote_tags }),
      ...(row.target_tags !== null && { targetTags: row.target_tags }),
    };
  }

  async validate(isNew: boolean): Promise<FieldError[]> {
    const { network, protocol, ports, remoteCidrs, remoteTags } = this.asked;
    const errors: FieldError[] = [];
    if (ports && ports.length > 0 && protocol !== 'tcp' && protocol !== 'udp') {
      errors.push({ pointer: '/ports', code: 'invalid_value', message: 'go with protocol tcp or udp only' });
    }
    if (remoteCidrs !== undefined && remoteTags !== undefined) {
      errors.push({ pointer: '/remoteTags', code: 'invalid_value', message: 'cannot stand beside remoteCidrs' });
    }
    if (!isNew) return errors;
    const found = await findNetwork(this.scope, network);
    if (Array.isArray(found)) return [...errors, ...found];
    this.networkId = found.id;
    return errors;
  }

  async claim(tx: Tx, claim: Claim<FirewallruleDocument>): Promise<void> {
    const { tenantId, id } = this.core;
    const { priority, direction, action, protocol, ports, remoteCidrs, remoteTags, targetTags } = this.asked;
    const columns = {
      priority,
      direction,
      action,
      protocol: protocol ?? 'any',
      ports: ports ?? [],
      remote_cidrs: remoteCidrs ?? null,
      remote_tags: remoteTags ?? null,
      target_tags: targetTags ?? null,
    };
    if (claim.action === 'update') {
      await tx
        .updateTable('firewallrule')
        .set(columns)
        .where('tenant_id', '=', tenantId)
        .where('id', '=', id)
        .execute();
      if (claim.isRestore) await setPart(tx, this.core, await this.part(tx));
      return;
    }
    if (claim.isRetry) return;
    await tx
      .insertInto('firewallrule')
      .values({ tenant_id: tenantId, id, network_id: this.networkId!, ...columns })
      .execute();
    await holdEdges(tx, this.core, [{ targetTenantId: tenantId, targetId: this.networkId!, relation: PART_RELATION }]);
    await refuseFull(tx, this.core, this.networkId!, MAX_RULES);
  }

  async release(tx: Tx): Promise<void> {
    await dropEdges(tx, this.core);
  }

  private async part(tx: Tx): Promise<NetworkPart> {
    const row = await this.fresh(tx);
    const ports = row.ports.flatMap((text) => parsePorts(text) ?? []);
    return {
      networkId: row.network_id,
      position: row.priority,
      spec: {
        kind: 'firewallRule',
        direction: row.direction,
        action: row.action,
        protocol: row.protocol,
        ports,
        remoteCidrs: row.remote_cidrs,
        remoteTags: row.remote_tags,
        targetTags: row.target_tags,
      },
    };
  }

  async create(core: ResourceCore, job: Job<Tx>): Promise<void> {
    await addPart(job, core, (tx) => this.part(tx));
  }

  async update(job: Job<Tx>): Promise<void> {
    await changePart(job, this.core, (tx) => this.part(tx));
  }

  async remove(job: Job<Tx>): Promise<void> {
    await takePart(job, this.core);
  }
}
