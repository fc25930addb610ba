/** Kind user before the contract suite. */
import { giveLoginPlace } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

const MISSING = '01890000-0000-7000-8000-000000000000';

export const contract = kindContract({
  prepare: async (ctx) => {
    // A started stack's tenants have one.
    if (ctx.platform) await giveLoginPlace(ctx.platform, ctx.caller.actor.tenantId);
    await ctx.make('group', { name: 'ops' });
  },
  create: (ctx) => ({ name: ctx.unique(), role: 'viewer', groups: ['ops'] }),
  patch: { firstName: 'Alice', email: 'alice@acme.example', role: 'operator', groups: [], tags: { team: 'shop' } },
  actions: { invite: {}, disable: {}, enable: {} },
  invalid: [
    { change: { role: 'owner' }, pointer: '/role' },
    { change: { email: 'nobody' }, pointer: '/email' },
    { change: { firstName: '<b>' }, pointer: '/firstName' },
    { change: { lastName: 'x'.repeat(256) }, pointer: '/lastName' },
    { change: { groups: ['no-such-group'] }, pointer: '/groups/0' },
    { change: { groups: ['ops', MISSING] }, pointer: '/groups/1' },
    { change: { groups: ['ops', 'ops'] }, pointer: '/groups' },
  ],
  broken: {
    'a password that is on its way to nobody': `select k.id from tenant_user k join resource r on r.tenant_id = k.tenant_id
      and r.id = k.id where k.tenant_id = $1 and k.invitation is not null and r.state = 'ready'`,
    'accepted though disabled': `select s.subject from subject s join tenant_user k on k.tenant_id = s.tenant_id
      and k.id = s.resource_id where s.tenant_id = $1 and s.enabled <> k.enabled`,
  },
});
