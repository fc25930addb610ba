/** Kind publicaddress before the contract suite. */
import { machineOn, publicPool } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

const MISSING = '01890000-0000-7000-8000-000000000000';

export const contract = kindContract({
  install: (platform) => publicPool(platform, 'public', '203.0.113.0', '203.0.113.255'),
  standing: {
    prepare: async (ctx) => {
      await ctx.make('network', { name: 'lan', subnet: '10.66.0.0/24' });
      await ctx.make('instance', machineOn('lan'));
    },
    more: [
      ['update', { instance: 'machine' }],
      ['update', { instance: null }],
      ['update', { instance: 'machine' }],
    ],
  },
  create: (ctx) => ({ name: ctx.unique(), pool: 'public' }),
  patch: { tags: { tier: 'front' } },
  invalid: [
    { change: { pool: 'no-such-pool' }, pointer: '/pool' },
    { change: { pool: 'No Pool' }, pointer: '/pool' },
    { change: { instance: 'no-such-instance' }, pointer: '/instance' },
    { change: { instance: MISSING }, pointer: '/instance' },
  ],
  broken: {
    'a free address below the hint': `select first_ip from public_pool_range r where hint - first_ip <>
      (select count(*) from publicaddress a where a.ip >= r.first_ip and a.ip < r.hint)`,
    'an address outside of its pool': `select a.id from publicaddress a where tenant_id = $1
      and not exists (select 1 from public_pool_range r where a.ip between r.first_ip and r.last_ip and r.pool = a.pool)`,
    'a part without its instance': `select id from publicaddress a where tenant_id = $1 and (instance_id is not null) <>
      exists (select 1 from network_part p where p.tenant_id = a.tenant_id and p.resource_id = a.id)`,
  },
});
