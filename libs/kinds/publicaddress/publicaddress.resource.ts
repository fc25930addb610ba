/**
 * Kind publicaddress: an address of a pool, taken when it is asked for and given back when it is removed. With an instance it
 * is part of that one's network.
 */
import { sql } from 'kysely';
import { type FieldError, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import {
  addPart,
  changePart,
  type FoundGuest,
  findGuest,
  holdEdges,
  keepEdges,
  type NetworkPart,
  PART_RELATION,
  refuseFull,
  setPart,
  takePart,
} from '#libs/kinds/network';
import { holdPublicAddress } from '#libs/nodes';
import {
  type Claim,
  type CoreDocument,
  type CoreRow,
  dropEdges,
  type Edge,
  type Job,
  RowResource,
} from '#libs/resources';

export interface PublicaddressDocument extends CoreDocument {
  pool?: string;
  instance?: string | null;
}

export interface PublicaddressRow extends CoreRow {
  pool: string;
  ip: string;
  instance_id: string | null;
  network_id: string | null;
}

/** Unique in the table of edges: an instance has one at most. */
const RELATION = 'is the public address of';

/** Of one network: nodes are told them all in one message. */
export const MAX_ADDRESSES = 1000;

export class PublicaddressResource extends RowResource<PublicaddressDocument, PublicaddressRow> {
  private pool: string | undefined;
  private guest: FoundGuest | undefined;

  protected documentOf({ pool, instance_id }: PublicaddressRow) {
    return { pool, ...(instance_id !== null && { instance: instance_id }) };
  }

  async validate(isNew: boolean): Promise<FieldError[]> {
    const errors: FieldError[] = [];
    if (isNew) {
      this.pool = await this.findPool();
      if (this.pool === undefined) {
        const message =
          this.asked.pool === undefined
            ? 'has no default: the administrators have given no pool yet'
            : 'is no pool that there is';
        errors.push({ pointer: '/pool', code: 'not_found', message });
      }
    }
    const { instance } = this.asked;
    if (instance === undefined || instance === null) return errors;
    const found = await findGuest(this.scope, { instance, kept: this.row?.instance_id });
    if (Array.isArray(found)) return [...errors, ...found];
    this.guest = found;
    return errors;
  }

  private async findPool(): Promise<string | undefined> {
    const which = this.asked.pool === undefined ? sql`true` : sql`name = ${this.asked.pool}`;
    const [pool] = await this.scope.rows(
      sql<{ name: string }>`select name from public_pool where ${which} order by name limit 1`.compile(
        this.scope.builder,
      ),
    );
    return pool?.name;
  }

  async claim(tx: Tx, claim: Claim<PublicaddressDocument>): Promise<void> {
    if (claim.action === 'create' && claim.isRetry) return;
    const { tenantId, id } = this.core;
    if (claim.action === 'update' && claim.isRestore) return this.restore(tx);
    const target = { instance_id: this.guest?.instanceId ?? null, network_id: this.guest?.networkId ?? null };
    await holdEdges(tx, this.core, this.edges(this.guest));
    if (this.guest) {
      await this.refuseSecond(tx, this.guest.instanceId);
      await refuseFull(tx, this.core, this.guest.networkId, MAX_ADDRESSES);
    }
    if (claim.action === 'create') {
      // Last, since all tenants wait for the pool.
      const ip = await this.claimAddress(tx);
      await tx
        .insertInto('publicaddress')
        .values({ tenant_id: tenantId, id, pool: this.pool!, ip, ...target })
        .execute();
      return;
    }
    await tx.updateTable('publicaddress').set(target).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
  }

  /** The instance of before: its edges are held still, only where it is on the network is looked up anew. */
  private async restore(tx: Tx): Promise<void> {
    const { tenantId, id } = this.core;
    const held = await sql<{ instance: string; network: string | null }>`
      select d.target_id as instance,
        (select l.network_id from lease l where l.tenant_id = d.tenant_id and l.instance_id = d.target_id
          order by l.ordinal limit 1) as network
      from dependency d where d.tenant_id = ${tenantId} and d.resource_id = ${id} and d.relation = ${RELATION}
        and d.target_id = ${this.asked.instance ?? null}::uuid`.execute(tx);
    const { instance = null, network = null } = held.rows[0] ?? {};
    const target = { instance_id: network && instance, network_id: network };
    await tx.updateTable('publicaddress').set(target).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
    await setPart(tx, this.core, await this.part(tx));
  }

  private async claimAddress(tx: Tx): Promise<string> {
    const result = await sql<{ ip: string | null }>`select host(claim_public_address(${this.pool!})) as ip`.execute(tx);
    const ip = result.rows[0]?.ip;
    if (!ip) throw new RhyzomeError('no_free_address', `The pool “${this.pool}” has no free address left.`);
    return ip;
  }

  /** The edge was not written where another address has one like it. */
  private async refuseSecond(tx: Tx, instanceId: string): Promise<void> {
    const result = await sql<{ id: string; name: string }>`
      select r.id, r.name from dependency d join resource r on r.tenant_id = d.tenant_id and r.id = d.resource_id
      where d.target_tenant_id = ${this.core.tenantId} and d.target_id = ${instanceId} and d.relation = ${RELATION}
        and d.resource_id <> ${this.core.id}`.execute(tx);
    const other = result.rows[0];
    if (!other) return;
    throw new RhyzomeError('in_use', 'The instance has a public address already.', {
      errors: [{ pointer: '/instance', code: 'in_use', message: 'has a public address already' }],
      blockers: [{ kind: this.core.kind, ...other, relation: RELATION }],
    });
  }

  private edges(guest: FoundGuest | undefined): Edge[] {
    if (!guest) return [];
    const { tenantId: targetTenantId } = this.core;
    return [
      { targetTenantId, targetId: guest.instanceId, relation: RELATION },
      { targetTenantId, targetId: guest.networkId, relation: PART_RELATION },
    ];
  }

  async settled(tx: Tx): Promise<void> {
    const { instance_id: instanceId, network_id: networkId } = await this.fresh(tx);
    const guest = instanceId !== null && networkId !== null ? { instanceId, networkId } : undefined;
    await keepEdges(tx, this.core, this.edges(guest));
  }

  async release(tx: Tx): Promise<void> {
    const { ip, network_id: networkId } = await this.fresh(tx);
    if (networkId !== null) await holdPublicAddress(tx, this.core.tenantId, networkId, ip);
    await dropEdges(tx, this.core);
  }

  private async part(tx: Tx): Promise<NetworkPart | null> {
    const { ip, instance_id, network_id } = await this.fresh(tx);
    if (instance_id === null || network_id === null) return null;
    return { networkId: network_id, spec: { kind: 'publicAddress', publicIp: ip, instance: instance_id } };
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
