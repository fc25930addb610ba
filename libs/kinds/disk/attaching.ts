/**
 * Attaching disks to instances, as rows: who has which disk at which slot, and the edge that keeps a disk while an
 * instance has it. What the instance's node makes of it, the caller tells.
 */
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import {
  addEdges,
  inTransaction,
  type Referenced,
  type RowScope,
  referencedColumn,
  updateResource,
  usable,
  type Who,
} from '#libs/resources';
import { isNamed } from './rows.js';

/** How many disks a machine has at most, the boot disk with them: as many as there are virtio slots for (drivers/libvirt). */
export const MAX_DISKS = 14;

export interface Machine {
  id: string;
  name: string;
  state: string;
  nodeId: string | null;
}

/** The instance that a reference names; undefined: none that the tenant has and whoever asks may read. */
export async function findMachine(scope: RowScope, reference: string): Promise<Machine | undefined> {
  const rows = await scope.rows(
    sql<Machine & Referenced>`
    select r.id, r.name, r.state, k.node_id as "nodeId", ${referencedColumn}
    from resource r join instance k on k.tenant_id = r.tenant_id and k.id = r.id
    where r.tenant_id = ${scope.tenantId} and r.kind = 'instance' and ${isNamed(reference)}`.compile(scope.builder),
  );
  return usable(scope, rows)[0];
}

/**
 * Attaches a disk, which is locked and attached to none, at the lowest free slot. Throws RhyzomeError `not_ready` when
 * the instance is not there for it, `busy` while it moves to another node, `conflict` when both lie on different nodes or it has no slot left.
 */
export async function attachTo(tx: Tx, disk: Who, instanceId: string): Promise<void> {
  const { tenantId, id } = disk;
  // Held until the end, so that two disks do not take one slot and the instance does not go meanwhile.
  await sql`select 1 from resource where tenant_id = ${tenantId} and id = ${instanceId} for no key update`.execute(tx);
  const machine = await findMachine(inTransaction(tx, tenantId), instanceId);
  if (!machine || !['ready', 'updating'].includes(machine.state)) {
    throw new RhyzomeError('not_ready', 'The instance is not ready for a disk; its state and conditions say why.');
  }
  const moving = await sql`select 1 from move where tenant_id = ${tenantId} and resource_id = ${instanceId}`.execute(
    tx,
  );
  if (moving.rows.length > 0) {
    throw new RhyzomeError('busy', 'The instance is being moved to another node; wait for that.', {
      retryAfterSeconds: 1,
    });
  }
  const here = await sql<{ node: string | null; slots: number[] }>`
    select k.node_id as node, array(select slot from disk a
      where a.tenant_id = k.tenant_id and a.instance_id = ${instanceId} order by slot) as slots
    from disk k where k.tenant_id = ${tenantId} and k.id = ${id}`.execute(tx);
  const { node, slots } = here.rows[0]!;
  if (node !== machine.nodeId) {
    throw new RhyzomeError(
      'conflict',
      'The disk and the instance are on different nodes; the disk has to move there first, or is made anew from a snapshot.',
    );
  }
  if (slots.length >= MAX_DISKS) {
    throw new RhyzomeError('conflict', `An instance has at most ${MAX_DISKS} disks; detach one first.`);
  }
  const free = Array.from({ length: MAX_DISKS }, (_, slot) => slot).find((slot) => slot > 0 && !slots.includes(slot))!;
  await take(tx, disk, { instanceId, slot: free, bootOrder: null });
}

/** Writes that an instance has a disk, and the edge that says so. */
export async function take(
  tx: Tx,
  disk: Who,
  place: { instanceId: string; slot: number; bootOrder: number | null },
): Promise<void> {
  const { tenantId, id } = disk;
  const { instanceId, slot, bootOrder } = place;
  await tx
    .updateTable('disk')
    .set({ instance_id: instanceId, slot, boot_order: bootOrder })
    .where('tenant_id', '=', tenantId)
    .where('id', '=', id)
    .execute();
  await addEdges(
    tx,
    { tenantId, id: instanceId },
    [{ targetTenantId: tenantId, targetId: id, relation: bootOrder === null ? 'has attached' : 'boots from' }],
    () => new RhyzomeError('conflict', 'The disk is being removed.'),
  );
}

/** Writes that a disk is attached to none; nothing where it is not. */
export async function detachFrom(tx: Tx, disk: Who): Promise<void> {
  const { tenantId, id } = disk;
  await sql`with free as (
      update disk set instance_id = null, slot = null, boot_order = null, with_instance = false
      where tenant_id = ${tenantId} and id = ${id} and instance_id is not null returning id)
    delete from dependency where tenant_id = ${tenantId} and target_tenant_id = ${tenantId}
      and target_id = ${id} and relation in ('has attached', 'boots from')`.execute(tx);
}

/** What an instance that goes leaves behind: its disks, attached to none. Visible in their ETags. */
export async function detachAll(tx: Tx, tenantId: string, instanceId: string): Promise<void> {
  const disks = await tx
    .selectFrom('disk')
    .select('id')
    .where('tenant_id', '=', tenantId)
    .where('instance_id', '=', instanceId)
    .orderBy('id')
    .execute();
  for (const { id } of disks) {
    await detachFrom(tx, { tenantId, id });
    await updateResource(tx, { tenantId, id }, {});
  }
}
