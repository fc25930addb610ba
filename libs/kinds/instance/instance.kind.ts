/** The manifest of kind instance. */

import { sql } from 'kysely';
import { invalid, RhyzomeError } from '#libs/core';
import { defineKind, type KindDefinition, type KindResource } from '#libs/resources';
import { ConsoleController, consolePaths } from './console.controller.js';
import { ConsoleAttachController, consoleAttachPaths } from './console-attach.controller.js';
import { InstanceCreate, InstanceUpdate, InstanceView, MigrateBody, ResizeBody } from './instance.dto.js';
import { observed } from './instance.observed.js';
import { InstanceResource } from './instance.resource.js';
import { tellInstanceAgain } from './on-node.js';
import type { InstanceDocument, InstanceRow } from './rows.js';

export const instance: KindDefinition<InstanceRow> = defineKind<InstanceRow>({
  name: 'instance',
  plural: 'instances',
  description: 'A virtual machine with an address on each of its networks.',
  dto: { create: InstanceCreate, update: InstanceUpdate, view: InstanceView },
  table: 'instance',
  columns: [
    'image_id',
    'vcpus',
    'memory_mib',
    'desired_power_state',
    'power_state',
    'restart_policy',
    'ssh_keys',
    'placement',
    'node_id',
  ],
  selections: {
    node: sql`(select n.name from node n where n.id = k.node_id)`,
    interfaces: sql`(select coalesce(json_agg(json_build_object('network', l.network_id, 'ip', host(l.ip), 'ip6', host(l.ip6), 'mac', l.mac)
      order by l.ordinal), '[]') from lease l where l.tenant_id = k.tenant_id and l.instance_id = k.id)`,
    disks: sql`(select coalesce(json_agg(json_build_object('id', d.id, 'bootOrder', d.boot_order, 'sizeGiB', d.size_gib,
      'isOwn', d.with_instance, 'nodeId', d.node_id) order by d.slot), '[]')
      from disk d where d.tenant_id = k.tenant_id and d.instance_id = k.id)`,
  },
  readOnly: ['powerState', 'node'],
  immutable: [
    'image',
    'bootDisk',
    'disks',
    'vcpus',
    'memoryMiB',
    'diskGiB',
    'interfaces',
    'userData',
    'sshKeys',
    'placement',
  ],
  filters: {
    image: { column: sql.ref('k.image_id'), type: 'uuid', description: 'Id of the image.' },
    powerState: { column: sql.ref('k.power_state'), type: 'text', description: 'As observed.' },
    desiredPowerState: { column: sql.ref('k.desired_power_state'), type: 'text', description: 'As wanted.' },
    vcpus: { column: sql.ref('k.vcpus'), type: 'integer', description: 'Exactly so many.' },
    memoryMiB: { column: sql.ref('k.memory_mib'), type: 'integer', description: 'Exactly so much.' },
  },
  view: (row) => ({
    image: row.image_id,
    bootDisk: row.disks.find(({ bootOrder }) => bootOrder !== null)?.id ?? null,
    disks: row.disks.flatMap(({ id, bootOrder }) => (bootOrder === null ? [id] : [])),
    vcpus: row.vcpus,
    memoryMiB: row.memory_mib,
    diskGiB: row.disks.find(({ bootOrder }) => bootOrder !== null)?.sizeGiB ?? null,
    interfaces: row.interfaces,
    sshKeys: row.ssh_keys,
    placement: row.placement,
    desiredPowerState: row.desired_power_state,
    powerState: row.power_state,
    restartPolicy: row.restart_policy,
    node: row.node,
  }),
  make: (scope) => new InstanceResource(scope, instance),
  actions: {
    start: {
      summary: 'Starts the machine: desiredPowerState becomes running.',
      claim: async (resource) => ({ ...resource.document(), desiredPowerState: 'running' }),
    },
    stop: {
      summary: 'Stops the machine: ACPI first, hard after a time limit.',
      claim: async (resource) => ({ ...resource.document(), desiredPowerState: 'stopped' }),
    },
    reboot: {
      summary: 'Restarts the guest of a running machine: asks it to shut down first.',
      claim: refuseStopped,
    },
    reset: {
      summary: 'Restarts a running machine at once, as its reset button would.',
      claim: refuseStopped,
    },
    migrate: {
      summary: 'Moves the machine to another node, while it runs where that is possible.',
      dto: MigrateBody,
      claim: async (resource, tx, body: MigrateBody) => {
        await (resource as InstanceResource).claimMove(tx, body);
        return undefined;
      },
    },
    resize: {
      summary: 'Gives a stopped machine other processors or memory.',
      dto: ResizeBody,
      claim: (resource, _tx, body: ResizeBody) => resized(resource as InstanceResource, body),
    },
  },
  verbs: ['console'],
  refresh: (tx, tenantId, id) => tellInstanceAgain(tx, { tenantId, id }),
  observed: (tx, tenantId, report) => observed(instance, tx, tenantId, report),
  controllers: [ConsoleController, ConsoleAttachController],
  extraPaths: { ...consolePaths, ...consoleAttachPaths },
});

async function refuseStopped(resource: KindResource<any>): Promise<undefined> {
  const { desiredPowerState } = resource.document() as InstanceDocument;
  if (desiredPowerState === 'stopped') throw new RhyzomeError('not_ready', 'The instance is stopped; start it.');
  return undefined;
}

/** Processors and memory are what a machine starts with. */
async function resized(resource: InstanceResource, body: ResizeBody): Promise<InstanceDocument> {
  if (body.vcpus === undefined && body.memoryMiB === undefined) {
    throw invalid([{ pointer: '/vcpus', code: 'required', message: 'is needed, or else memoryMiB' }]);
  }
  const document = resource.document();
  if (document.desiredPowerState !== 'stopped' || resource.powerState !== 'stopped') {
    throw new RhyzomeError(
      'not_ready',
      'A resize needs the instance to be stopped: stop it, resize it, start it again.',
    );
  }
  return { ...document, vcpus: body.vcpus ?? document.vcpus, memoryMiB: body.memoryMiB ?? document.memoryMiB };
}
