/** Kind network before the contract suite. */
import { globalImage } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

export const contract = kindContract({
  install: async (platform) => {
    await globalImage(platform);
  },
  create: (ctx) => ({ name: ctx.unique(), subnet: '10.60.0.0/24', subnet6: 'fd00:60::/64' }),
  patch: { mtu: 1400, tags: { tier: 'back' } },
  standing: { isDependant: true, more: [['update', { dns: ['10.60.0.53'] }]] },
  dependant: (ctx, id) => ({
    kind: 'instance',
    body: { name: ctx.unique(), image: 'tiny', vcpus: 1, memoryMiB: 64, interfaces: [{ network: id }] },
  }),
  invalid: [
    { change: { subnet: '10.60.0.1/24' }, pointer: '/subnet' },
    { change: { subnet: '10.60.0.0/30' }, pointer: '/subnet' },
    { change: { subnet: '8.8.8.0/24' }, pointer: '/subnet' },
    { change: { subnet: '10.0.0.0/7' }, pointer: '/subnet' },
    { change: { subnet6: 'fd00:60::1/64' }, pointer: '/subnet6' },
    { change: { subnet6: 'fd00:60::/48' }, pointer: '/subnet6' },
    { change: { subnet6: 'fe80::/64' }, pointer: '/subnet6' },
    { change: { subnet6: '10.60.0.0/24' }, pointer: '/subnet6' },
    { change: { gateway: '10.61.0.1' }, pointer: '/gateway' },
    { change: { gateway: '10.60.0.0' }, pointer: '/gateway' },
    { change: { gateway: '10.60.0.255' }, pointer: '/gateway' },
    { change: { dns: ['10.60.0.1', 'resolver'] }, pointer: '/dns/1' },
    { change: { mtu: 575 }, pointer: '/mtu' },
    { change: { domain: 'not a domain' }, pointer: '/domain' },
  ],
  broken: {
    'a count that is not that of the leases': `select id, address_used from network n where tenant_id = $1 and address_used <>
      (select count(*) from lease l where l.tenant_id = n.tenant_id and l.network_id = n.id)`,
  },
});
