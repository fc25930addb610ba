/** Kind portforward before the contract suite. */
import { guestOn, machineOn, publicPool } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

const MISSING = '01890000-0000-7000-8000-000000000000';
/** By tenant: the machine that its forwards lead to. */
const machines = new Map<string, string>();
let port = 0;

export const contract = kindContract({
  install: (platform) => publicPool(platform, 'public', '203.0.0.0', '203.0.15.255'),
  prepare: async (ctx) => {
    const network = await ctx.make('network', { name: 'lan', subnet: '10.63.0.0/24' });
    await ctx.make('publicaddress', { name: 'front', pool: 'public' });
    const { tenantId } = ctx.caller.actor;
    machines.set(tenantId, (await guestOn(ctx.platform, tenantId, [network])).id);
  },
  standing: {
    prepare: async (ctx) => {
      machines.set(ctx.caller.actor.tenantId, await ctx.make('instance', machineOn('lan')));
    },
  },
  create: (ctx) => ({
    name: ctx.unique(),
    publicAddress: 'front',
    protocol: 'tcp',
    port: (++port % 50_000) + 1,
    instance: machines.get(ctx.caller.actor.tenantId),
  }),
  patch: { port: 60_000, targetPort: 80, tags: { tier: 'front' } },
  invalid: [
    { change: { publicAddress: 'no-such-address' }, pointer: '/publicAddress' },
    { change: { publicAddress: MISSING }, pointer: '/publicAddress' },
    { change: { instance: MISSING }, pointer: '/instance' },
    { change: { network: MISSING }, pointer: '/network' },
    { change: { protocol: 'sctp' }, pointer: '/protocol' },
    { change: { port: 0 }, pointer: '/port' },
    { change: { port: 65_536 }, pointer: '/port' },
    { change: { targetPort: 1.5 }, pointer: '/targetPort' },
  ],
  broken: {
    'a port that nobody has': `select port from public_port p where tenant_id = $1 and not exists (select 1 from portforward f
      where (f.tenant_id, f.id, f.public_address_id, f.protocol, f.port) = (p.tenant_id, p.resource_id, p.public_address_id, p.protocol, p.port))`,
    'a forward without its port': `select id from portforward f where tenant_id = $1 and not exists (select 1 from public_port p
      where (f.tenant_id, f.id, f.public_address_id, f.protocol, f.port) = (p.tenant_id, p.resource_id, p.public_address_id, p.protocol, p.port))`,
  },
});
