/** Kind disk before the contract suite. */
import { sql } from 'kysely';
import { globalImage } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';

const MISSING = '01890000-0000-7000-8000-000000000000';

export const contract = kindContract({
  install: async (platform) => {
    await globalImage(platform);
    // What is deleted leaves nothing; that it can be had back elsewhere is in deleted.spec.ts.
    await sql`update installation set deleted_disks_kept = null`.execute(platform.db.operator);
  },
  prepare: async (ctx) => {
    await ctx.make('network', { name: 'lan', subnet: '10.61.0.0/24' });
    await ctx.make('instance', {
      name: 'machine',
      image: 'tiny',
      vcpus: 1,
      memoryMiB: 128,
      interfaces: [{ network: 'lan' }],
    });
  },
  create: (ctx) => ({ name: ctx.unique(), image: 'tiny', sizeGiB: 2 }),
  patch: { sizeGiB: 3, tags: { tier: 'back' } },
  actions: { attach: { instance: 'machine' }, detach: {} },
  // It takes a second node, and a machine would find its disks on either: test/moving.spec.ts.
  elsewhere: ['migrate'],
  dependant: (ctx, id) => ({ kind: 'snapshot', body: { name: ctx.unique(), disk: id } }),
  invalid: [
    { change: { image: 'no-such-image' }, pointer: '/image' },
    { change: { image: MISSING }, pointer: '/image' },
    { change: { snapshot: MISSING }, pointer: '/snapshot' },
    { change: { sizeGiB: 0 }, pointer: '/sizeGiB' },
    { change: { sizeGiB: 65_537 }, pointer: '/sizeGiB' },
    { change: { sizeGiB: 1.5 }, pointer: '/sizeGiB' },
  ],
  broken: {
    'a disk that holds more room than it has': `select k.id from disk k join reservation v
      on v.tenant_id = k.tenant_id and v.resource_id = k.id where k.tenant_id = $1 and v.disk_gib <> k.size_gib`,
    'a disk that is ready without room': `select k.id from disk k join resource r using (tenant_id, id)
      where tenant_id = $1 and r.state = 'ready' and not exists (select 1 from reservation v
        where v.tenant_id = k.tenant_id and v.resource_id = k.id)`,
    'an edge to a machine that has not the disk': `select e.target_id from dependency e where e.tenant_id = $1
      and e.relation in ('has attached', 'boots from') and not exists (select 1 from disk k
        where k.tenant_id = e.target_tenant_id and k.id = e.target_id and k.instance_id = e.resource_id)`,
  },
});
