/** Kind instance before the contract suite. */
import { globalImage } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

const MISSING = '01890000-0000-7000-8000-000000000000';

export const contract = kindContract({
  install: async (platform) => {
    await globalImage(platform);
  },
  prepare: async (ctx) => {
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
  actions: { start: {}, reboot: {}, stop: {} },
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
  ],
  broken: {
    'a count that is not that of the leases': `select id, address_used from network n where tenant_id = $1 and address_used <>
      (select count(*) from lease l where l.tenant_id = n.tenant_id and l.network_id = n.id)`,
    'an automatic lease without its instance': `select id from lease l where tenant_id = $1 and automatic
      and not exists (select 1 from instance i where i.tenant_id = l.tenant_id and i.id = l.instance_id)`,
    'a running machine without a reservation': `select i.id from instance i join resource r using (tenant_id, id)
      where tenant_id = $1 and r.state = 'ready'
      and not exists (select 1 from reservation v where v.tenant_id = i.tenant_id and v.resource_id = i.id)`,
  },
});
