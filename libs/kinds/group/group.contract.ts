/** Kind group before the contract suite. */
import { giveLoginPlace } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

export const contract = kindContract({
  prepare: (ctx) => giveLoginPlace(ctx.platform, ctx.caller.actor.tenantId),
  create: (ctx) => ({ name: ctx.unique(), description: 'those who run it' }),
  patch: { description: 'those who ran it', tags: { team: 'shop' } },
  invalid: [{ change: { description: 'x'.repeat(256) }, pointer: '/description' }],
});
