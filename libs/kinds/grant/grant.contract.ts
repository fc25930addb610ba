/** Kind grant before the contract suite. */
import { kindContract } from '#libs/testing/contract';

const MISSING = '01890000-0000-7000-8000-000000000000';

export const contract = kindContract({
  create: (ctx) => ({
    name: ctx.unique(),
    subject: { group: 'ops' },
    verbs: ['read', 'update'],
    kinds: ['grant'],
    tagSelector: 'env in (dev,test)',
  }),
  patch: { verbs: ['read'], tagSelector: 'env=dev', tags: { tier: 'back' } },
  invalid: [
    { change: { verbs: [] }, pointer: '/verbs' },
    { change: { verbs: ['read', 'fly'] }, pointer: '/verbs/1' },
    { change: { kinds: ['unicorn'] }, pointer: '/kinds/0' },
    { change: { tagSelector: 'env in (' }, pointer: '/tagSelector' },
    { change: { resources: [MISSING] }, pointer: '/resources' },
    { change: { subject: {} }, pointer: '/subject' },
    { change: { subject: { group: 'a', role: 'viewer' } }, pointer: '/subject' },
    { change: { subject: { role: 'admin' } }, pointer: '/subject/role' },
    { change: { subject: { user: MISSING } }, pointer: '/subject/user' },
    { change: { subject: { serviceAccount: 'nobody' } }, pointer: '/subject/serviceAccount' },
  ],
  broken: {
    'rules that are not those of the grant': `select g.id from access_grant g join resource r on r.tenant_id = g.tenant_id and r.id = g.id
      where g.tenant_id = $1 and r.state in ('ready', 'updating') and jsonb_array_length(g.rules) <>
        (select count(*) from access_rule a where a.tenant_id = g.tenant_id and a.grant_id = g.id)`,
    'a grant that gives although it is being removed': `select r.id from resource r
      join access_rule a on a.tenant_id = r.tenant_id and a.grant_id = r.id where r.tenant_id = $1 and r.state = 'deleting'`,
  },
});
