/** Kind network: a virtual network of its tenant. On nodes it appears with the first instance that uses it. */

import { sql } from 'kysely';
import { type FieldError, parseCidr4, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { probeAbsent, probeReady, withdraw } from '#libs/nodes';
import { type Claim, type CoreDocument, type CoreRow, type Job, RowResource } from '#libs/resources';
import { parseCidr6 } from './cidr6.js';
import { DEFAULT_MTU } from './network.dto.js';
import { refreshNetwork } from './on-nodes.js';
import { firstHost, gatewayErrors, usableAddresses } from './subnet.js';

export interface NetworkDocument extends CoreDocument {
  subnet: string;
  subnet6?: string;
  gateway?: string;
  dns?: string[];
  domain?: string;
  mtu?: number;
}

export interface NetworkRow extends CoreRow {
  subnet: string;
  subnet6: string | null;
  gateway: string;
  gateway6: string | null;
  dns: string[];
  domain: string | null;
  mtu: number;
  address_total: number;
  address_used: number;
}

/** RFC 8200 §5: every link that carries IPv6 has at least this. */
const IPV6_MIN_MTU = 1280;

export class NetworkResource extends RowResource<NetworkDocument, NetworkRow> {
  protected documentOf({ subnet, subnet6, gateway, dns, domain, mtu }: NetworkRow) {
    return {
      subnet,
      dns,
      mtu,
      ...(subnet6 !== null && { subnet6 }),
      // A gateway that is the default follows the subnet when that changes.
      ...(gateway !== firstHost(subnet) && { gateway }),
      ...(domain !== null && { domain }),
    };
  }

  private get gateway(): string {
    return this.asked.gateway ?? firstHost(this.asked.subnet);
  }

  async validate(_isNew: boolean): Promise<FieldError[]> {
    return [...gatewayErrors(this.asked.subnet, this.gateway), ...this.ipv6Errors()];
  }

  private ipv6Errors(): FieldError[] {
    const { subnet, subnet6, mtu } = this.asked;
    if (subnet6 === undefined) return [];
    const errors: FieldError[] = [];
    const most = 96 + parseCidr4(subnet)!.prefix;
    const { prefix } = parseCidr6(subnet6)!;
    if (prefix > 64 && prefix > most) {
      const message = `must have room for the addresses of ${subnet}: /${most} or shorter`;
      errors.push({ pointer: '/subnet6', code: 'out_of_range', message });
    }
    if ((mtu ?? DEFAULT_MTU) < IPV6_MIN_MTU) {
      errors.push({ pointer: '/mtu', code: 'out_of_range', message: `must be at least ${IPV6_MIN_MTU} with IPv6` });
    }
    return errors;
  }

  async claim(tx: Tx, claim: Claim<NetworkDocument>): Promise<void> {
    const { tenantId, id } = this.core;
    const { subnet, subnet6, dns, domain, mtu } = this.asked;
    const columns = {
      subnet,
      subnet6: subnet6 ?? null,
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
    if (!claim.isRestore) {
      await this.refuseRenumbering(tx, claim.previous);
      await this.refuseTooWide(tx, columns.mtu);
    }
    await tx.updateTable('network').set(columns).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
    await sql`update lease set ip6 = ip6_of(${subnet6 ?? null}, ${subnet}, ip, mac)
      where tenant_id = ${tenantId} and network_id = ${id}
        and ip6 is distinct from ip6_of(${subnet6 ?? null}, ${subnet}, ip, mac)`.execute(tx);
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

  /** Nor so that something has another IPv6 address than before; where it had none, it gets one. */
  private async refuseRenumbering(tx: Tx, previous: NetworkDocument): Promise<void> {
    const { subnet, subnet6 = null } = this.asked;
    const result = await sql<{ ip6: string }>`
      select host(ip6) as ip6 from lease
      where tenant_id = ${this.core.tenantId} and network_id = ${this.core.id} and ip6 is not null
        and ip6 is distinct from ip6_of(${subnet6}, ${subnet}, ip, mac)
      order by lease.ip6 limit 1`.execute(tx);
    const lost = result.rows[0];
    if (!lost) return;
    const pointer = subnet6 === (previous.subnet6 ?? null) ? '/subnet' : '/subnet6';
    throw new RhyzomeError('in_use', `The address ${lost.ip6} has a lease and would become another one.`, {
      errors: [{ pointer, code: 'in_use', message: `must keep the lease of ${lost.ip6}` }],
    });
  }

  /** Nor can a network that spans nodes become wider than what lies between them. */
  private async refuseTooWide(tx: Tx, mtu: number): Promise<void> {
    const { tenantId, id } = this.core;
    const result = await sql<{ most: number | null; spanned: number }>`
      select min(n.underlay_mtu) as most, count(*)::int as spanned
      from network k join placement p on p.tenant_id = k.tenant_id and p.resource_id = k.id and p.present
      join node n on n.id = p.node_id and node_spans(n, k.mtu)
      where k.tenant_id = ${tenantId} and k.id = ${id}`.execute(tx);
    const { most, spanned } = result.rows[0]!;
    if (spanned < 2 || most === null || mtu <= most) return;
    throw new RhyzomeError('in_use', `The network is on several nodes, between which its MTU can be ${most} at most.`, {
      errors: [
        { pointer: '/mtu', code: 'out_of_range', message: `must be at most ${most} while it is on several nodes` },
      ],
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
    await job.ask('tell the nodes', {
      act: (tx) => refreshNetwork(tx, this.core.tenantId, this.core.id),
      until: {
        name: 'nodes have it',
        probe: async (tx) => {
          const answer = await probeReady(tx, this.core, 'gone');
          return Array.isArray(answer) ? answer.length : answer;
        },
      },
    });
  }

  async remove(job: Job<Tx>): Promise<void> {
    job.plan(2);
    await job.ask('take it from the nodes', {
      act: (tx) => withdraw(tx, this.core),
      cancellable: false,
      until: { name: 'nodes are rid of it', probe: (tx) => probeAbsent(tx, this.core) },
    });
  }
}
