/** Kind sample-thing before the contract suite. */
import { kindContract } from '#libs/testing/contract';

export const contract = kindContract({
  create: (ctx) => ({ name: ctx.unique(), note: 'hello' }),
  patch: { note: 'goodbye', tags: { tier: 'back' } },
  invalid: [
    { change: { note: '' }, pointer: '/note' },
    { change: { note: 'x'.repeat(256) }, pointer: '/note' },
  ],
});
