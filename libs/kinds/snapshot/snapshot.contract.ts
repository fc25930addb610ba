/** Kind snapshot before the contract suite. */
import { kindContract } from '#libs/testing/contract';

const MISSING = '01890000-0000-7000-8000-000000000000';

export const contract = kindContract({
  prepare: async (ctx) => {
    await ctx.make('disk', { name: 'data', sizeGiB: 2 });
  },
  create: (ctx) => ({ name: ctx.unique(), disk: 'data' }),
  patch: { tags: { tier: 'back' } },
  actions: { restore: {} },
  invalid: [
    { change: { disk: 'no-such-disk' }, pointer: '/disk' },
    { change: { disk: MISSING }, pointer: '/disk' },
  ],
  broken: {
    'a disk that is being restored by nobody': `select id from disk where tenant_id = $1 and restoring is not null`,
    'a snapshot that is ready and was never taken': `select k.id from snapshot k join resource r using (tenant_id, id)
      where tenant_id = $1 and r.state = 'ready' and k.size_bytes is null`,
  },
});
