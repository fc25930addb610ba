/** Kind group before the contract suite. */
import { giveLoginPlace } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

export const contract = kindContract({
  prepare: async (ctx) => {
    // A started stack's tenants have one.
    if (ctx.platform) await giveLoginPlace(ctx.platform, ctx.caller.actor.tenantId);
  },
  create: (ctx) => ({ name: ctx.unique(), description: 'those who run it' }),
  patch: { description: 'those who ran it', tags: { team: 'shop' } },
  invalid: [{ change: { description: 'x'.repeat(256) }, pointer: '/description' }],
});
