/** Kind image before the contract suite: made from a URL on the loopback, which only this test allows. */
import { buffer } from 'node:stream/consumers';
import { contentLab } from '#libs/testing';
import { kindContract } from '#libs/testing/contract';
import { placeholderContent } from './placeholder.js';

let source: { url: string; sha256: string };

export const contract = kindContract({
  install: async () => {
    const lab = await contentLab();
    source = lab.serve(await buffer(placeholderContent()));
  },
  create: (ctx) => ({ name: ctx.unique(), sourceUrl: source.url, sha256: source.sha256 }),
  patch: { osInfo: { name: 'Debian' }, tags: { tier: 'base' } },
  actions: { publish: {}, withdraw: {} },
  invalid: [
    { change: { sha256: 'ab' }, pointer: '/sha256' },
    { change: { sourceUrl: 'ftp://images.example/x' }, pointer: '/sourceUrl' },
    { change: { sourceUrl: 'https://user:secret@images.example/x' }, pointer: '/sourceUrl' },
    { change: { sourceUrl: 'http://169.254.169.254/latest/meta-data' }, pointer: '/sourceUrl' },
    { change: { sourceUrl: 'http://[::1]/x' }, pointer: '/sourceUrl' },
    { change: { snapshot: 'also-a-source' }, pointer: '/snapshot' },
    { change: { sizeBytes: 0 }, pointer: '/sizeBytes' },
    { change: { sizeBytes: 2 ** 40 }, pointer: '/sizeBytes' },
    { change: { format: 'vmdk' }, pointer: '/format' },
    { change: { osInfo: { name: 7 } }, pointer: '/osInfo/name' },
    { change: { osInfo: { name: 'x'.repeat(256) } }, pointer: '/osInfo/name' },
  ],
  broken: {
    'ready without content': `select r.id from resource r join image k on k.tenant_id = r.tenant_id and k.id = r.id
      where r.tenant_id = $1 and r.state = 'ready' and k.sha256 is null`,
    'an upload that nobody waits for': `select u.image_id from image_upload u join resource r
      on r.tenant_id = u.tenant_id and r.id = u.image_id where u.tenant_id = $1 and r.state in ('ready', 'failed')`,
    'shown otherwise than it says': `select r.id from resource r join image k on k.tenant_id = r.tenant_id and k.id = r.id
      where r.tenant_id = $1 and r.published <> (k.visibility = 'published')`,
    'tags shown otherwise than their image': `select t.resource_id from resource_tag t join resource r
      on r.tenant_id = t.tenant_id and r.id = t.resource_id where t.tenant_id = $1 and t.published <> r.published`,
  },
});
