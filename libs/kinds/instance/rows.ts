/** Instances as rows: writing a new one, and what its disks forbid. */
import { sql } from 'kysely';
import { type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import type { CoreDocument, CoreRow, Who } from '#libs/resources';
import type { Placement } from './placement.js';

export interface InstanceDocument extends CoreDocument {
  image?: string;
  bootDisk?: string;
  disks?: string[];
  vcpus: number;
  memoryMiB: number;
  diskGiB?: number;
  interfaces: { network: string; ip?: string }[];
  userData?: string;
  sshKeys?: string[];
  placement?: Placement;
  desiredPowerState?: 'running' | 'stopped';
  restartPolicy?: 'stay' | 'always';
}

export interface InstanceRow extends CoreRow {
  image_id: string | null;
  vcpus: number;
  memory_mib: number;
  desired_power_state: 'running' | 'stopped';
  power_state: string;
  restart_policy: 'stay' | 'always';
  ssh_keys: string[];
  placement: Placement | null;
  node_id: string | null;
  node: string | null;
  disks: { id: string; bootOrder: number | null; sizeGiB: number; isOwn: boolean; nodeId: string | null }[];
  interfaces: { network: string; ip: string; ip6: string | null; mac: string }[];
}

/** Writes an instance's own row, and apart from it what only its guest reads. */
export async function insertInstance(
  tx: Tx,
  core: ResourceCore,
  asked: InstanceDocument,
  imageId: string | null,
): Promise<void> {
  const { tenantId: tenant_id, id } = core;
  await tx
    .insertInto('instance')
    .values({
      tenant_id,
      id,
      image_id: imageId,
      vcpus: asked.vcpus,
      memory_mib: asked.memoryMiB,
      held_vcpus: asked.vcpus,
      held_memory_mib: asked.memoryMiB,
      ssh_keys: asked.sshKeys ?? [],
      placement: asked.placement ? JSON.stringify(asked.placement) : null,
      desired_power_state: asked.desiredPowerState ?? 'running',
      restart_policy: asked.restartPolicy ?? 'stay',
    })
    .execute();
  if (asked.userData === undefined) return;
  await tx.insertInto('instance_user_data').values({ tenant_id, id, user_data: asked.userData }).execute();
}

/** Throws RhyzomeError `busy` while one of its disks is being set back to a snapshot. */
export async function refuseRestoring(tx: Tx, who: Who): Promise<void> {
  const result = await sql<{ name: string; id: string }>`
    select s.name, s.id from disk d join resource s on s.tenant_id = d.tenant_id and s.id = d.restoring
    where d.tenant_id = ${who.tenantId} and d.instance_id = ${who.id} limit 1`.execute(tx);
  const found = result.rows[0];
  if (!found) return;
  throw new RhyzomeError('busy', 'A disk of it is being set back to a snapshot; wait for that.', {
    blockers: [{ kind: 'snapshot', id: found.id, name: found.name, relation: 'is being restored' }],
    retryAfterSeconds: 1,
  });
}
