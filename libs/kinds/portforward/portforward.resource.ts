/** Kind portforward: a port of a public address that leads to a machine. Part of the network over which it does. */
import { sql } from 'kysely';
import { type FieldError, isUuid, type ResourceCore, RhyzomeError } from '#libs/core';
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
import {
  type Claim,
  type CoreDocument,
  type CoreRow,
  dropEdges,
  type Edge,
  type Job,
  type Referenced,
  RowResource,
  referencedColumn,
  usable,
} from '#libs/resources';

export interface PortforwardDocument extends CoreDocument {
  publicAddress: string;
  protocol: 'tcp' | 'udp';
  port: number;
  instance: string;
  network?: string;
  targetPort?: number;
}

export interface PortforwardRow extends CoreRow {
  public_address_id: string;
  ip: string;
  protocol: 'tcp' | 'udp';
  port: number;
  instance_id: string;
  network_id: string;
  network_asked: boolean;
  target_port: number | null;
}

type Ends = Pick<PortforwardRow, 'public_address_id' | 'instance_id' | 'network_id'>;

/** Of one network: nodes are told them all in one message. */
export const MAX_FORWARDS = 1000;

export class PortforwardResource extends RowResource<PortforwardDocument, PortforwardRow> {
  private addressId: string | undefined;
  private guest: FoundGuest | undefined;

  protected documentOf(row: PortforwardRow) {
    return {
      publicAddress: row.public_address_id,
      protocol: row.protocol,
      port: row.port,
      instance: row.instance_id,
      ...(row.network_asked && { network: row.network_id }),
      ...(row.target_port !== null && { targetPort: row.target_port }),
    };
  }

  async validate(_isNew: boolean): Promise<FieldError[]> {
    const { publicAddress, instance, network } = this.asked;
    const errors: FieldError[] = [];
    this.addressId = await this.findAddress(publicAddress);
    if (this.addressId === undefined) {
      errors.push({ pointer: '/publicAddress', code: 'not_found', message: 'is no public address that you may use' });
    }
    const found = await findGuest(this.scope, { instance, network, kept: this.row?.instance_id });
    if (Array.isArray(found)) return [...errors, ...found];
    this.guest = found;
    return errors;
  }

  private async findAddress(reference: string): Promise<string | undefined> {
    const which = isUuid(reference) ? sql`r.id = ${reference}` : sql`r.name = ${reference}`;
    const rows = await this.scope.rows(
      sql<{ id: string } & Referenced>`select r.id, ${referencedColumn} from resource r
        where r.tenant_id = ${this.scope.tenantId} and r.kind = 'publicaddress' and ${which}
          and (r.state not in ('deleting', 'failed') or r.id = ${this.row?.public_address_id ?? null}::uuid)`.compile(
        this.scope.builder,
      ),
    );
    return usable(this.scope, rows, this.row?.public_address_id)[0]?.id;
  }

  async claim(tx: Tx, claim: Claim<PortforwardDocument>): Promise<void> {
    if (claim.action === 'create' && claim.isRetry) return;
    const { tenantId, id } = this.core;
    if (claim.action === 'update' && claim.isRestore) return this.restore(tx);
    const columns = {
      ...this.ownColumns(),
      public_address_id: this.addressId!,
      instance_id: this.guest!.instanceId,
      network_id: this.guest!.networkId,
    };
    if (claim.action === 'create') {
      await tx
        .insertInto('portforward')
        .values({ tenant_id: tenantId, id, ...columns })
        .execute();
    } else {
      await tx.updateTable('portforward').set(columns).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
    }
    await holdEdges(tx, this.core, this.edges(columns));
    await refuseFull(tx, this.core, columns.network_id, MAX_FORWARDS);
    await this.takePort(tx, columns);
  }

  private ownColumns() {
    const { protocol, port, network, targetPort } = this.asked;
    return { protocol, port, network_asked: network !== undefined, target_port: targetPort ?? null };
  }

  /** What stood before is held still; references in its document are ids. */
  private async restore(tx: Tx): Promise<void> {
    const { tenantId, id } = this.core;
    const { publicAddress, instance, network } = this.asked;
    const guest = await findGuest(this.scope, { instance, network, kept: instance });
    const columns = {
      ...this.ownColumns(),
      public_address_id: publicAddress,
      instance_id: instance,
      // Its interface may have gone meanwhile: then it leads nowhere until it is changed.
      ...(!Array.isArray(guest) && { network_id: guest.networkId }),
    };
    await tx.updateTable('portforward').set(columns).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
    await setPart(tx, this.core, await this.part(tx));
  }

  /** Throws RhyzomeError `port_in_use`. The port of before stays held until the job has ended. */
  private async takePort(tx: Tx, { public_address_id }: Ends): Promise<void> {
    const { tenantId, id } = this.core;
    const { protocol, port } = this.asked;
    await tx
      .insertInto('public_port')
      .values({ tenant_id: tenantId, public_address_id, protocol, port, resource_id: id })
      .onConflict((oc) => oc.doNothing())
      .execute();
    const result = await sql<{ id: string; name: string }>`
      select r.id, r.name from public_port p join resource r on r.tenant_id = p.tenant_id and r.id = p.resource_id
      where p.tenant_id = ${tenantId} and p.public_address_id = ${public_address_id} and p.protocol = ${protocol}
        and p.port = ${port} and p.resource_id <> ${id}`.execute(tx);
    const other = result.rows[0];
    if (!other) return;
    throw new RhyzomeError('port_in_use', `Another port forward has ${protocol} port ${port} of this address.`, {
      errors: [{ pointer: '/port', code: 'port_in_use', message: 'is in use' }],
      blockers: [{ kind: this.core.kind, ...other, relation: 'has the port' }],
    });
  }

  private edges(row: Ends): Edge[] {
    const { tenantId: targetTenantId } = this.core;
    return [
      { targetTenantId, targetId: row.public_address_id, relation: 'is a port of' },
      { targetTenantId, targetId: row.instance_id, relation: 'leads to' },
      { targetTenantId, targetId: row.network_id, relation: PART_RELATION },
    ];
  }

  async settled(tx: Tx): Promise<void> {
    const row = await this.fresh(tx);
    await keepEdges(tx, this.core, this.edges(row));
    await sql`
      delete from public_port where tenant_id = ${row.tenant_id} and resource_id = ${row.id}
        and (public_address_id, protocol, port)
          is distinct from (${row.public_address_id}::uuid, ${row.protocol}::text, ${row.port}::int)`.execute(tx);
  }

  /** Its port goes with its row. */
  async release(tx: Tx): Promise<void> {
    await dropEdges(tx, this.core);
  }

  private async part(tx: Tx): Promise<NetworkPart> {
    const { ip, protocol, port, instance_id, network_id, target_port } = await this.fresh(tx);
    const targetPort = target_port ?? port;
    return {
      networkId: network_id,
      spec: { kind: 'forward', publicIp: ip, protocol, port, instance: instance_id, targetPort },
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
