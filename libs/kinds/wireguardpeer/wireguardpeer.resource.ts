/**
 * Kind wireguardpeer: somebody who may enter a network by its VPN door. Part of that network. A private key that is made
 * here lives in the request that asked for it, and in its answer.
 */
import { sql } from 'kysely';
import { type FieldError, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import {
  addPart,
  changePart,
  type FoundNetwork,
  findNetwork,
  holdEdges,
  type NetworkPart,
  PART_RELATION,
  setPart,
  takePart,
} from '#libs/kinds/network';
import { type Claim, type CoreDocument, type CoreRow, dropEdges, type Job, RowResource } from '#libs/resources';
import { type ClientConfig, clientConfig } from './client-config.js';
import { claimTunnelAddress, type Door, openDoor } from './door.js';
import { newKeyPair } from './keys.js';

export interface WireguardpeerDocument extends CoreDocument {
  network: string;
  publicKey?: string;
  allowedAddresses?: string[];
  presharedKey?: string;
}

export interface WireguardpeerRow extends CoreRow {
  network_id: string;
  public_key: string;
  address: string;
  allowed_addresses: string[] | null;
  preshared_key: string | null;
  /** The network's. */
  subnet: string;
  endpoint: string | null;
  server_public_key: string;
}

export class WireguardpeerResource extends RowResource<WireguardpeerDocument, WireguardpeerRow> {
  private network: FoundNetwork | undefined;
  private told: { privateKey: string; config: string } | undefined;

  protected documentOf(row: WireguardpeerRow) {
    return {
      network: row.network_id,
      publicKey: row.public_key,
      ...(row.allowed_addresses !== null && { allowedAddresses: row.allowed_addresses }),
      ...(row.preshared_key !== null && { presharedKey: row.preshared_key }),
    };
  }

  async validate(isNew: boolean): Promise<FieldError[]> {
    if (!isNew) return [];
    const found = await findNetwork(this.scope, this.asked.network);
    if (Array.isArray(found)) return found;
    this.network = found;
    return [];
  }

  async claim(tx: Tx, claim: Claim<WireguardpeerDocument>): Promise<void> {
    const { tenantId, id } = this.core;
    const { allowedAddresses, presharedKey } = this.asked;
    const columns = { allowed_addresses: allowedAddresses ?? null, preshared_key: presharedKey ?? null };
    if (claim.action === 'update') {
      await tx
        .updateTable('wireguardpeer')
        .set(columns)
        .where('tenant_id', '=', tenantId)
        .where('id', '=', id)
        .execute();
      if (claim.isRestore) await setPart(tx, this.core, await this.part(tx));
      return;
    }
    if (!claim.isRetry) await this.enter(tx, this.network!, columns);
  }

  private async enter(
    tx: Tx,
    network: FoundNetwork,
    columns: Pick<WireguardpeerRow, 'allowed_addresses' | 'preshared_key'>,
  ): Promise<void> {
    const { tenantId, id } = this.core;
    await holdEdges(tx, this.core, [{ targetTenantId: tenantId, targetId: network.id, relation: PART_RELATION }]);
    const door = await openDoor(tx, tenantId, network.id);
    const pair = this.asked.publicKey === undefined ? newKeyPair() : undefined;
    const publicKey = pair?.publicKey ?? this.asked.publicKey!;
    await this.refuseKnownKey(tx, network.id, door, publicKey);
    const address = await claimTunnelAddress(tx, tenantId, network.id, door);
    await tx
      .insertInto('wireguardpeer')
      .values({ tenant_id: tenantId, id, network_id: network.id, public_key: publicKey, address, ...columns })
      .execute();
    if (!pair) return;
    const { privateKey } = pair;
    const config = clientConfig({
      name: this.core.name,
      privateKey,
      address,
      serverPublicKey: door.publicKey,
      hasPresharedKey: columns.preshared_key !== null,
      allowedAddresses: columns.allowed_addresses ?? [network.subnet],
      endpoint: door.endpoint,
    });
    this.told = { privateKey, config };
  }

  /** WireGuard knows peers by their keys. The network is locked. */
  private async refuseKnownKey(tx: Tx, networkId: string, door: Door, publicKey: string): Promise<void> {
    const known = await sql`select 1 from wireguardpeer
      where tenant_id = ${this.core.tenantId} and network_id = ${networkId} and public_key = ${publicKey}`.execute(tx);
    if (known.rows.length === 0 && door.publicKey !== publicKey) return;
    throw new RhyzomeError('already_exists', 'Somebody has this key in the network already; make another pair.', {
      errors: [{ pointer: '/publicKey', code: 'already_exists', message: 'is in use in this network' }],
    });
  }

  secrets(): Record<string, unknown> | undefined {
    return this.told;
  }

  async release(tx: Tx): Promise<void> {
    await dropEdges(tx, this.core);
  }

  private async part(tx: Tx): Promise<NetworkPart> {
    const { network_id, public_key, preshared_key, address } = await this.fresh(tx);
    return {
      networkId: network_id,
      spec: {
        kind: 'wireguardPeer',
        publicKey: public_key,
        presharedKey: preshared_key,
        allowedIps: [`${address}/32`],
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

/** Its configuration as far as it is known here. */
export function configOf(row: WireguardpeerRow): ClientConfig {
  return {
    name: row.name,
    address: row.address,
    serverPublicKey: row.server_public_key,
    hasPresharedKey: row.preshared_key !== null,
    allowedAddresses: row.allowed_addresses ?? [row.subnet],
    endpoint: row.endpoint,
  };
}
