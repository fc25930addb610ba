/** Kind wireguardpeer before the contract suite. */
import { machineOn } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';
import { openDoor } from './door.js';

const MISSING = '01890000-0000-7000-8000-000000000000';

export const contract = kindContract({
  prepare: async (ctx) => {
    const network = await ctx.make('network', { name: 'lan', subnet: '10.65.0.0/24' });
    // The first peer would make it, and it stays.
    const { tenantId } = ctx.caller.actor;
    await ctx.platform.db.tenantTransaction(tenantId, (tx) => openDoor(tx, tenantId, network));
  },
  standing: {
    prepare: async (ctx) => {
      await ctx.make('instance', machineOn('lan'));
    },
  },
  create: (ctx) => ({ name: ctx.unique(), network: 'lan' }),
  patch: { allowedAddresses: ['10.65.0.0/25'], tags: { tier: 'front' } },
  invalid: [
    { change: { network: 'no-such-network' }, pointer: '/network' },
    { change: { network: MISSING }, pointer: '/network' },
    { change: { publicKey: 'AAAA' }, pointer: '/publicKey' },
    // Two bits too many.
    { change: { publicKey: `${'A'.repeat(42)}B=` }, pointer: '/publicKey' },
    { change: { presharedKey: 'x'.repeat(44) }, pointer: '/presharedKey' },
    { change: { allowedAddresses: [] }, pointer: '/allowedAddresses' },
    { change: { allowedAddresses: ['10.65.0.1/24'] }, pointer: '/allowedAddresses/0' },
    { change: { allowedAddresses: ['10.65.0.0/24', 'fd00::/64'] }, pointer: '/allowedAddresses/1' },
  ],
});
