/** The metadata address on a node that does not have the network's router: its own agent answers its own guests, and nobody else. */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { canHost } from '#libs/drivers/host';
import { lease, networkRef, networkSpec, never } from './lab.js';
import { askMetadata, type MetadataServer, serveMetadata } from './lab-metadata.js';
import { type LabPair, openPair, type Side, toldTo } from './lab-pair.js';
import { namespaceName } from './names.js';

const ability = await canHost();
if (!ability.ok) console.warn(`skipped: metadata on several nodes: ${ability.reason}`);

const sides = ['a', 'b'] as const;
const guests: Record<Side, { name: string; n: number }> = { a: { name: 'web', n: 10 }, b: { name: 'db', n: 11 } };

describe.skipIf(!ability.ok)('the metadata address on two nodes', () => {
  let pair: LabPair;
  const servers: Partial<Record<Side, MetadataServer>> = {};
  const ref = networkRef('acme');

  const routerAt = async (router: Side) => {
    const places = { '10.77.1.10': 'a', '10.77.1.11': 'b' } as const;
    const spec = networkSpec(lease(10), lease(11));
    for (const side of sides) {
      await pair.networks(side).apply(ref, toldTo(side, { spec, vni: 5001, router, places }), never);
    }
  };

  beforeAll(async () => {
    pair = await openPair();
    for (const side of sides) {
      servers[side] = await serveMetadata(pair[side], join(pair[side].dir, 'metadata.sock'));
    }
    await routerAt('a');
    for (const side of sides) {
      const { name, n } = guests[side];
      await pair[side].plug(name, ref, lease(n).mac);
      expect(await pair[side].dhcp(name)).toContain(`10.77.1.${n}`);
    }
  }, 60_000);
  afterAll(async () => {
    for (const server of Object.values(servers)) server.close();
    await pair?.close();
  });

  it('is answered on each node for its own guests, wherever the router is', async () => {
    for (const router of ['a', 'b'] as const) {
      await routerAt(router);
      for (const side of sides) {
        const who = `${ref.id} 10.77.1.${guests[side].n}`;
        expect(await askMetadata(pair[side], guests[side].name), `router on ${router}`).toBe(`you are ${who}`);
        expect(new Set(servers[side]!.seen)).toEqual(new Set([who]));
      }
    }
  }, 60_000);

  it('answers nobody who asks as another, and nothing else on the node without the router', async () => {
    await routerAt('a');
    const { b } = pair;
    await b.run('ip -n db addr add 10.77.1.99/24 dev eth0');
    expect(await askMetadata(b, 'db', ',bind=10.77.1.99', 4)).toBe('');
    expect(await b.ping('db', '169.254.169.254')).toBe(false);
    expect(await b.lookup('db', 'web.lab.example', 'a', '169.254.169.254')).not.toContain('10.77.1.10');
    // Not even what is sent to its MAC goes anywhere from there.
    const annex = await b.run(`ip netns exec ${namespaceName(b.installation, ref.id)} cat /sys/class/net/lan/address`);
    await b.run(`ip -n db neigh replace 10.77.1.98 lladdr ${annex.trim()} dev eth0 nud permanent`);
    await b.run('ip -n db route replace 203.0.113.9 via 10.77.1.98');
    expect(await b.ping('db', '203.0.113.9')).toBe(false);
    expect((await b.run(`ip netns pids ${namespaceName(b.installation, ref.id)}`)).trim().split('\n')).toHaveLength(1);
  }, 30_000);
});
