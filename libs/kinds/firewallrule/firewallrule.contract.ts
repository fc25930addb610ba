/** Kind firewallrule before the contract suite. */
import { machineOn } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

const MISSING = '01890000-0000-7000-8000-000000000000';

export const contract = kindContract({
  prepare: async (ctx) => {
    await ctx.make('network', { name: 'lan', subnet: '10.64.0.0/24' });
  },
  standing: {
    prepare: async (ctx) => {
      await ctx.make('instance', machineOn('lan'));
    },
  },
  create: (ctx) => ({
    name: ctx.unique(),
    network: 'lan',
    priority: 100,
    direction: 'in',
    action: 'allow',
    protocol: 'tcp',
    ports: ['80', '8000-8100'],
    targetTags: 'role=web',
  }),
  patch: { priority: 50, ports: ['443'], remoteCidrs: ['192.0.2.0/24', '2001:db8::/32'], tags: { tier: 'front' } },
  invalid: [
    { change: { network: 'no-such-network' }, pointer: '/network' },
    { change: { network: MISSING }, pointer: '/network' },
    { change: { priority: -1 }, pointer: '/priority' },
    { change: { priority: 65_536 }, pointer: '/priority' },
    { change: { direction: 'both' }, pointer: '/direction' },
    { change: { action: 'reject' }, pointer: '/action' },
    { change: { protocol: 'gre' }, pointer: '/protocol' },
    { change: { protocol: 'icmp' }, pointer: '/ports' },
    { change: { ports: ['80', '0'] }, pointer: '/ports/1' },
    { change: { ports: ['8100-8000'] }, pointer: '/ports/0' },
    { change: { ports: ['http'] }, pointer: '/ports/0' },
    { change: { ports: ['65536'] }, pointer: '/ports/0' },
    { change: { ports: Array.from({ length: 17 }, (_, i) => String(i + 1)) }, pointer: '/ports' },
    { change: { remoteCidrs: [] }, pointer: '/remoteCidrs' },
    { change: { remoteCidrs: ['192.0.2.1/24'] }, pointer: '/remoteCidrs/0' },
    { change: { remoteCidrs: ['192.0.2.0/24', 'everybody'] }, pointer: '/remoteCidrs/1' },
    { change: { remoteCidrs: ['192.0.2.0/24'], remoteTags: 'a=b' }, pointer: '/remoteTags' },
    { change: { remoteTags: 'a=(b' }, pointer: '/remoteTags' },
    { change: { targetTags: '' }, pointer: '/targetTags' },
  ],
});
