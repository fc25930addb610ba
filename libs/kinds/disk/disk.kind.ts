/** The manifest of kind disk. */

import { sql } from 'kysely';
import { invalid, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import { defineKind, type KindDefinition } from '#libs/resources';
import { findMachine } from './attaching.js';
import { DeletedDiskController } from './deleted.controller.js';
import { purgeExpired } from './deleted.js';
import { deletedDiskPaths, deletedDiskSchemas } from './deleted.openapi.js';
import { AttachBody, DiskCreate, DiskMigrateBody, DiskUpdate, DiskView } from './disk.dto.js';
import { type DiskDocument, DiskResource } from './disk.resource.js';
import { tellDisk } from './on-node.js';
import { type DiskRow, deviceOf, lockUsableDisk } from './rows.js';

export const disk: KindDefinition<DiskRow> = defineKind<DiskRow>({
  name: 'disk',
  plural: 'disks',
  description: 'A volume, empty or made from an image or a snapshot, that instances have as a disk.',
  dto: { create: DiskCreate, update: DiskUpdate, view: DiskView },
  table: 'disk',
  columns: [
    'size_gib',
    'image_tenant_id',
    'image_id',
    'image_sha256',
    'image_format',
    'image_size_bytes',
    'image_virtual_size_bytes',
    'snapshot_id',
    'snapshot_disk_id',
    'made',
    'node_id',
    'instance_id',
    'slot',
    'boot_order',
    'with_instance',
    'restoring',
  ],
  selections: { node: sql`(select n.name from node n where n.id = k.node_id)` },
  readOnly: ['instance', 'bootOrder', 'device', 'node'],
  immutable: ['image', 'snapshot', 'instance'],
  filters: {
    instance: { column: sql.ref('k.instance_id'), type: 'uuid', description: 'Id of the instance that has it.' },
    image: { column: sql.ref('k.image_id'), type: 'uuid', description: 'Id of the image that it builds on.' },
    sizeGiB: { column: sql.ref('k.size_gib'), type: 'integer', description: 'Exactly this size.' },
  },
  view: (row) => ({
    sizeGiB: row.size_gib,
    image: row.image_id,
    snapshot: row.snapshot_id,
    instance: row.instance_id,
    bootOrder: row.boot_order,
    device: deviceOf(row.slot),
    node: row.node,
  }),
  make: (scope) => new DiskResource(scope, disk),
  actions: {
    attach: {
      summary: 'Attaches it to an instance, also to one that runs.',
      dto: AttachBody,
      claim: (resource, tx, body: AttachBody) => attach(resource as DiskResource, tx, body.instance),
    },
    detach: {
      summary: 'Detaches it from its instance, also from one that runs; its guest has to let go of it.',
      claim: (resource) => detach(resource as DiskResource),
    },
    migrate: {
      summary: 'Moves it to another node, with its snapshots, while no instance has it.',
      dto: DiskMigrateBody,
      claim: async (resource, tx, body: DiskMigrateBody) => {
        await (resource as DiskResource).claimMove(tx, body.node);
        return undefined;
      },
    },
  },
  refresh: (tx, tenantId, id) => tellDisk(tx, { tenantId, id }),
  upkeep: purgeExpired,
  controllers: [DeletedDiskController],
  extraPaths: deletedDiskPaths,
  extraSchemas: deletedDiskSchemas,
});

/** Throws RhyzomeError `in_use` when an instance has it, `not_ready`, `busy`; `invalid` for an instance that there is not. */
async function attach(resource: DiskResource, tx: Tx, reference: string): Promise<DiskDocument> {
  const { id, tenantId } = resource.getCore();
  const { instance: holder } = resource.document();
  if (holder) throw inUse(holder);
  await lockUsableDisk(tx, tenantId, id);
  const machine = await findMachine(resource.scope, reference);
  if (!machine) {
    const message = 'is no instance that you may use';
    throw invalid([{ pointer: '/instance', code: 'not_found', message }]);
  }
  return { ...resource.document(), instance: machine.id };
}

function inUse(instanceId: string): RhyzomeError {
  return new RhyzomeError('in_use', 'An instance has the disk already; detach it first.', {
    blockers: [{ kind: 'instance', id: instanceId, name: '', relation: 'has attached' }],
  });
}

/** Throws RhyzomeError `not_ready` when no instance has it, `in_use` when one boots from it. */
async function detach(resource: DiskResource): Promise<DiskDocument> {
  const { instance, ...rest } = resource.document();
  if (!instance) throw new RhyzomeError('not_ready', 'No instance has the disk.');
  if (resource.isBootDisk) {
    throw new RhyzomeError('in_use', 'The instance boots from the disk; it keeps it for as long as it is there.', {
      blockers: [{ kind: 'instance', id: instance, name: '', relation: 'boots from' }],
    });
  }
  return rest;
}
