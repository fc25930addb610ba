/** Kind network: a virtual network of its tenant. On nodes it appears with the first instance that uses it. */

import { sql } from 'kysely';
import { type FieldError, notFound, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { probeAbsent, probeReady, withdraw } from '#libs/nodes';
import {
  type Claim,
  type CoreDocument,
  type CoreRow,
  coreOf,
  findResource,
  type Job,
  type KindDefinition,
  type KindResource,
  type RowScope,
} from '#libs/resources';
import { DEFAULT_MTU } from './network.dto.js';
import { refreshNetwork } from './on-nodes.js';
import { firstHost, gatewayErrors, usableAddresses } from './subnet.js';

export interface NetworkDocument extends CoreDocument {
  subnet: string;
  gateway?: string;
  dns?: string[];
  domain?: string;
  mtu?: number;
}

export interface NetworkRow extends CoreRow {
  subnet: string;
  gateway: string;
  dns: string[];
  domain: string | null;
  mtu: number;
  address_total: number;
  address_used: number;
}

export class NetworkResource implements KindResource<NetworkDocument> {
  private core!: ResourceCore;
  private asked!: NetworkDocument;

  constructor(
    private readonly scope: RowScope,
    private readonly kind: KindDefinition,
  ) {}

  getCore(): ResourceCore {
    return this.core;
  }

  async load(core: ResourceCore): Promise<this> {
    const row = (await findResource(this.scope, this.kind, core.id)) as NetworkRow | undefined;
    if (!row) throw notFound('network', core.id);
    this.core = coreOf(row);
    const { name, tags, subnet, dns, mtu } = row;
    this.asked = { name, tags, deletionProtection: row.deletion_protection, subnet, dns, mtu };
    // A gateway that is the default follows the subnet when that changes.
    if (row.gateway !== firstHost(subnet)) this.asked.gateway = row.gateway;
    if (row.domain !== null) this.asked.domain = row.domain;
    return this;
  }

  propose(core: ResourceCore, document: NetworkDocument): void {
    this.core = core;
    this.asked = document;
  }

  document(): NetworkDocument {
    return this.asked;
  }

  private get gateway(): string {
    return this.asked.gateway ?? firstHost(this.asked.subnet);
  }

  async validate(_isNew: boolean): Promise<FieldError[]> {
    return gatewayErrors(this.asked.subnet, this.gateway);
  }

  async claim(tx: Tx, claim: Claim<NetworkDocument>): Promise<void> {
    const { tenantId, id } = this.core;
    const { subnet, dns, domain, mtu } = this.asked;
    const columns = {
      subnet,
      gateway: this.gateway,
      dns: dns ?? [],
      domain: domain ?? null,
      mtu: mtu ?? DEFAULT_MTU,
      address_total: usableAddresses(subnet),
      address_hint: firstHost(subnet),
    };
    if (claim.action === 'create') {
      if (claim.isRetry) return;
      await tx
        .insertInto('network')
        .values({ tenant_id: tenantId, id, ...columns })
        .execute();
      return;
    }
    await this.refuseLosingLeases(tx, subnet, this.gateway);
    await tx.updateTable('network').set(columns).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
    if (claim.isRestore) await refreshNetwork(tx, tenantId, id);
  }

  /** A subnet or gateway cannot be changed so that a lease falls outside of it or onto it. */
  private async refuseLosingLeases(tx: Tx, subnet: string, gateway: string): Promise<void> {
    const result = await sql<{ ip: string }>`
      select host(ip) as ip from lease
      where tenant_id = ${this.core.tenantId} and network_id = ${this.core.id}
        and (ip <= ${subnet}::cidr::inet or ip >= set_masklen(broadcast(${subnet}::cidr), 32) or ip = ${gateway}::inet
          or not ip << ${subnet}::cidr)
      order by lease.ip limit 1`.execute(tx);
    const lost = result.rows[0];
    if (!lost) return;
    throw new RhyzomeError('in_use', `The address ${lost.ip} has a lease that would have no place any more.`, {
      errors: [{ pointer: '/subnet', code: 'in_use', message: `must keep the lease of ${lost.ip}` }],
    });
  }

  async release(tx: Tx): Promise<void> {
    const { tenantId, id } = this.core;
    await tx.deleteFrom('lease').where('tenant_id', '=', tenantId).where('network_id', '=', id).execute();
  }

  /** Nothing to do outside: nodes get the network with its first instance. */
  async create(_core: ResourceCore, _job: Job<Tx>): Promise<void> {}

  async update(job: Job<Tx>): Promise<void> {
    job.plan(2);
    await job.step('tell the nodes', { act: (tx) => refreshNetwork(tx, this.core.tenantId, this.core.id) });
    await job.wait('nodes have it', async (tx) => {
      const answer = await probeReady(tx, this.core);
      return Array.isArray(answer) ? answer.length : answer;
    });
  }

  async remove(job: Job<Tx>): Promise<void> {
    job.plan(2);
    await job.step('take it from the nodes', { act: (tx) => withdraw(tx, this.core), cancellable: false });
    await job.wait('nodes are rid of it', (tx) => probeAbsent(tx, this.core));
  }
}
