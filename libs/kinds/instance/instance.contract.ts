/** Kind instance before the contract suite. */
import { globalImage } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

const MISSING = '01890000-0000-7000-8000-000000000000';

export const contract = kindContract({
  install: async (platform) => {
    await globalImage(platform);
    await platform.addNode();
  },
  prepare: async (ctx) => {
    await ctx.platform.db.operator
      .updateTable('tenant')
      .set({ may_migrate: true })
      .where('id', '=', ctx.caller.actor.tenantId)
      .execute();
    await ctx.make('network', { name: 'lan', subnet: '10.61.0.0/24' });
  },
  create: (ctx) => ({
    name: ctx.unique(),
    image: 'tiny',
    vcpus: 1,
    memoryMiB: 128,
    interfaces: [{ network: 'lan' }, { network: 'lan' }],
  }),
  patch: { desiredPowerState: 'stopped', tags: { tier: 'back' } },
  actions: { start: {}, reboot: {}, reset: {}, migrate: {}, stop: {}, resize: { vcpus: 2, memoryMiB: 256 } },
  // Off this time.
  standing: { more: [['migrate', {}]] },
  invalid: [
    { change: { image: 'no-such-image' }, pointer: '/image' },
    { change: { image: MISSING }, pointer: '/image' },
    { change: { interfaces: [] }, pointer: '/interfaces' },
    { change: { interfaces: [{ network: MISSING }] }, pointer: '/interfaces/0/network' },
    { change: { interfaces: [{ network: 'lan', ip: '10.62.0.5' }] }, pointer: '/interfaces/0/ip' },
    { change: { interfaces: [{ network: 'lan', ip: '10.61.0.0' }] }, pointer: '/interfaces/0/ip' },
    { change: { interfaces: [{ network: 'lan', ip: '10.61.0.1' }] }, pointer: '/interfaces/0/ip' },
    { change: { interfaces: [{ network: 'lan', ip: '10.61.0.255' }] }, pointer: '/interfaces/0/ip' },
    { change: { interfaces: [{ network: 'lan', mac: '52:54:00:00:00:01' }] }, pointer: '/interfaces/0/mac' },
    { change: { vcpus: 0 }, pointer: '/vcpus' },
    { change: { vcpus: 257 }, pointer: '/vcpus' },
    { change: { vcpus: 1.5 }, pointer: '/vcpus' },
    { change: { memoryMiB: 63 }, pointer: '/memoryMiB' },
    { change: { bootDisk: 'no-such-disk' }, pointer: '/bootDisk' },
    { change: { disks: ['no-such-disk'] }, pointer: '/disks/0' },
    { change: { disks: [7] }, pointer: '/disks/0' },
    { change: { disks: Array.from({ length: 16 }, (_, i) => `d-${i}`) }, pointer: '/disks' },
    { change: { userData: 'x'.repeat(65_537) }, pointer: '/userData' },
    { change: { userData: '\u00e4'.repeat(32_769) }, pointer: '/userData' },
    { change: { sshKeys: ['no key'] }, pointer: '/sshKeys/0' },
    { change: { sshKeys: [`ssh-ed25519 ${'A'.repeat(68)} a\nb`] }, pointer: '/sshKeys/0' },
    { change: { placement: { affinity: 'k in (' } }, pointer: '/placement/affinity' },
  ],
  broken: {
    'a count that is not that of the leases': `select id, address_used from network n where tenant_id = $1 and address_used <>
      (select count(*) from lease l where l.tenant_id = n.tenant_id and l.network_id = n.id)`,
    'an automatic lease without its instance': `select id from lease l where tenant_id = $1 and automatic
      and not exists (select 1 from instance i where i.tenant_id = l.tenant_id and i.id = l.instance_id)`,
    'a boot disk whose machine is not there': `select id from disk d where tenant_id = $1 and with_instance
      and not exists (select 1 from instance i where i.tenant_id = d.tenant_id and i.id = d.instance_id)`,
    'a disk that is attached without the edge that keeps it': `select id from disk d where tenant_id = $1
      and instance_id is not null and not exists (select 1 from dependency e
        where e.tenant_id = d.tenant_id and e.resource_id = d.instance_id and e.target_id = d.id)`,
    'a resize that holds more than there is': `select id from instance where tenant_id = $1
      and (held_vcpus <> vcpus or held_memory_mib <> memory_mib)`,
    'a move that is under way, or the room for one': `select id from move m where tenant_id = $1 and not exists (select 1
      from job j where j.tenant_id = m.tenant_id and j.resource_id = m.resource_id and j.finished_at is null)`,
    'a machine and its disks that are not where their room is': `select v.resource_id as id from reservation v
      left join instance i on i.tenant_id = v.tenant_id and i.id = v.resource_id
      left join disk d on d.tenant_id = v.tenant_id and d.id = v.resource_id
      where v.tenant_id = $1 and v.node_id <> coalesce(i.node_id, d.node_id)`,
    'a running machine without a reservation': `select i.id from instance i join resource r using (tenant_id, id)
      where tenant_id = $1 and r.state = 'ready'
      and not exists (select 1 from reservation v where v.tenant_id = i.tenant_id and v.resource_id = i.id)`,
  },
});
