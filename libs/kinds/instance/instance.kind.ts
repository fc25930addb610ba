/** The manifest of kind instance. */

import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import { defineKind, type KindDefinition } from '#libs/resources';
import { ConsoleController, consolePaths } from './console.controller.js';
import { ConsoleAttachController, consoleAttachPaths } from './console-attach.controller.js';
import { InstanceCreate, InstanceUpdate, InstanceView } from './instance.dto.js';
import { observed } from './instance.observed.js';
import { InstanceResource, type InstanceRow } from './instance.resource.js';

export const instance: KindDefinition<InstanceRow> = defineKind<InstanceRow>({
  name: 'instance',
  plural: 'instances',
  description: 'A virtual machine with an address on each of its networks.',
  dto: { create: InstanceCreate, update: InstanceUpdate, view: InstanceView },
  table: 'instance',
  columns: [
    'image_id',
    'image_tenant_id',
    'vcpus',
    'memory_mib',
    'disk_gib',
    'desired_power_state',
    'power_state',
    'restart_policy',
    'node_id',
  ],
  selections: {
    node: sql`(select n.name from node n where n.id = k.node_id)`,
    interfaces: sql`(select coalesce(json_agg(json_build_object('network', l.network_id, 'ip', host(l.ip), 'mac', l.mac)
      order by l.ordinal), '[]') from lease l where l.tenant_id = k.tenant_id and l.instance_id = k.id)`,
    content: sql`(select json_build_object('sha256', i.sha256, 'format', i.format, 'sizeBytes', i.size_bytes,
      'virtualSizeBytes', i.virtual_size_bytes) from image i where i.tenant_id = k.image_tenant_id and i.id = k.image_id)`,
  },
  readOnly: ['powerState', 'node'],
  immutable: ['image', 'vcpus', 'memoryMiB', 'diskGiB', 'interfaces'],
  filters: {
    image: { column: sql.ref('k.image_id'), type: 'uuid', description: 'Id of the image.' },
    powerState: { column: sql.ref('k.power_state'), type: 'text', description: 'As observed.' },
    desiredPowerState: { column: sql.ref('k.desired_power_state'), type: 'text', description: 'As wanted.' },
    vcpus: { column: sql.ref('k.vcpus'), type: 'integer', description: 'Exactly so many.' },
    memoryMiB: { column: sql.ref('k.memory_mib'), type: 'integer', description: 'Exactly so much.' },
  },
  view: (row) => ({
    image: row.image_id,
    vcpus: row.vcpus,
    memoryMiB: row.memory_mib,
    diskGiB: row.disk_gib,
    interfaces: row.interfaces,
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
      summary: 'Restarts the guest of a running machine.',
      claim: async (resource) => {
        const { desiredPowerState } = resource.document();
        if (desiredPowerState === 'stopped') {
          throw new RhyzomeError('not_ready', 'The instance is stopped; start it.');
        }
        return undefined;
      },
    },
  },
  observed: (tx, tenantId, report) => observed(instance, tx, tenantId, report),
  controllers: [ConsoleController, ConsoleAttachController],
  extraPaths: { ...consolePaths, ...consoleAttachPaths },
});
