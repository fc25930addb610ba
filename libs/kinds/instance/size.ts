/** Processors and memory of a machine: what it has, and what is spoken for on its node while that changes. */
import type { ResourceCore } from '#libs/core';
import type { Tx } from '#libs/db';
import { reserveNode, shrinkReservation } from '#libs/nodes';
import type { InstanceRow } from './rows.js';

export interface Size {
  vcpus: number;
  memoryMiB: number;
}

/**
 * Takes what a change asks for: while it is under way, the larger of both sizes is spoken for. `isRestore`: the change has
 * failed, and `asked` is what it had before. Throws RhyzomeError `no_capacity`.
 */
export async function claimSize(
  tx: Tx,
  core: ResourceCore,
  asked: Size,
  now: InstanceRow,
  isRestore: boolean,
): Promise<void> {
  if (isRestore) {
    await writeSize(tx, core, { vcpus: asked.vcpus, memory_mib: asked.memoryMiB });
    return holdSize(tx, core, asked);
  }
  if (asked.vcpus === now.vcpus && asked.memoryMiB === now.memory_mib) return;
  const vcpus = Math.max(asked.vcpus, now.vcpus);
  const memoryMiB = Math.max(asked.memoryMiB, now.memory_mib);
  const only = now.node_id ? [now.node_id] : [];
  await reserveNode(tx, core, { vcpus, memoryMiB, diskGiB: 0 }, { only, stays: true });
  const held = { held_vcpus: vcpus, held_memory_mib: memoryMiB };
  await writeSize(tx, core, { vcpus: asked.vcpus, memory_mib: asked.memoryMiB, ...held });
}

/** Of what is spoken for, only this stays so. */
export async function holdSize(tx: Tx, core: ResourceCore, { vcpus, memoryMiB }: Size): Promise<void> {
  await writeSize(tx, core, { held_vcpus: vcpus, held_memory_mib: memoryMiB });
  await shrinkReservation(tx, core.id, { vcpus, memoryMiB, diskGiB: 0 });
}

async function writeSize(
  tx: Tx,
  { tenantId, id }: ResourceCore,
  values: { vcpus?: number; memory_mib?: number; held_vcpus?: number; held_memory_mib?: number },
): Promise<void> {
  await tx.updateTable('instance').set(values).where('tenant_id', '=', tenantId).where('id', '=', id).execute();
}
