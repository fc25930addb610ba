/** Everything that takes part in a network's router, changed by many at once: what nodes have in the end is what rows say. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { NetworkSpec } from '#libs/drivers/contract';
import { kinds } from '#libs/kinds';
import type { Caller, ChangeResult } from '#libs/resources';
import { type Guest, guestOn, type Platform, publicPool, startPlatform } from '#libs/testing';
import { checkNetworkSpec } from '../../drivers/network/network-spec.js';
import { placeNetworks, refreshNetworks } from './index.js';

let platform: Platform;
let caller: Caller;
let net: string;
beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await publicPool(platform, 'public', '203.0.113.0', '203.0.113.255');
  caller = await platform.tenant();
  const { tenantId } = caller.actor;
  net = await make('network', { name: 'lan', subnet: '10.7.0.0/24', subnet6: 'fd00:7::/64' });
  await platform.db.tenantTransaction(tenantId, (tx) => placeNetworks(tx, tenantId, platform.node.id, [net]));
});
afterAll(() => platform?.close());

const kindOf = (name: string) => platform.registry.get(name);
const create = (kind: string, body: object) => platform.pipeline.create(caller, kindOf(kind), body);

async function make(kind: string, body: object): Promise<string> {
  const change = await create(kind, body);
  await platform.done(caller, change);
  return change.body.id;
}

async function onNode(): Promise<NetworkSpec> {
  await platform.node.look();
  return platform.node.machine.get(net)!.spec as unknown as NetworkSpec;
}

const ended = (changes: ChangeResult[]) => Promise.all(changes.map((change) => platform.done(caller, change)));

test('made, changed and removed by many at once, all of it is on the node as it stands, and nothing else', {
  timeout: 60_000,
}, async () => {
  const { tenantId } = caller.actor;
  const guests: Guest[] = [];
  for (let i = 0; i < 4; i++) guests.push(await guestOn(platform, tenantId, [net], { role: i % 2 ? 'db' : 'web' }));
  const first = await Promise.all([
    ...guests.map(({ id }, i) => create('publicaddress', { name: `address-${i}`, instance: id })),
    ...guests.map((_, i) => create('publicaddress', { name: `shared-${i}` })),
  ]);
  // While those are under way: forwards on them, rules, peers, and more leases.
  const second = await Promise.all([
    ...guests.map(({ id }, i) =>
      create('portforward', { name: `f-${i}`, publicAddress: `shared-${i}`, protocol: 'tcp', port: 80, instance: id }),
    ),
    ...guests.map((_, i) =>
      create('firewallrule', {
        name: `r-${i}`,
        network: net,
        priority: i,
        direction: 'in',
        action: 'allow',
        targetTags: 'role=web',
      }),
    ),
    ...guests.map((_, i) => create('wireguardpeer', { name: `p-${i}`, network: 'lan' })),
  ]);
  const more = await Promise.all(guests.map(() => guestOn(platform, tenantId, [net], { role: 'web' })));
  await ended([...first, ...second]);
  const changes = await Promise.all([
    ...guests.map((_, i) => platform.pipeline.update(caller, kindOf('portforward'), `f-${i}`, { port: 81 })),
    ...guests.map((_, i) => platform.pipeline.update(caller, kindOf('firewallrule'), `r-${i}`, { priority: 9 - i })),
    ...more.map(({ id }, i) =>
      platform.pipeline.update(caller, kindOf('publicaddress'), `address-${i}`, { instance: id }),
    ),
    platform.pipeline.remove(caller, kindOf('wireguardpeer'), 'p-0'),
    platform.pipeline.update(caller, kindOf('network'), net, { mtu: 1400 }),
  ]);
  await ended(changes);
  await platform.db.tenantTransaction(tenantId, async (tx) => {
    await sql`update resource set tags = '{}' where id = ${guests[0]!.id}`.execute(tx);
    await refreshNetworks(tx, tenantId, [net]);
  });
  const spec = await onNode();
  expect(() => checkNetworkSpec(spec)).not.toThrow();
  expect(spec.mtu).toBe(1400);
  expect(spec.leases).toHaveLength(8);
  expect(spec.publicAddresses.map(({ ip }) => ip).toSorted()).toEqual(more.map(({ ips }) => ips[0]).toSorted());
  expect(spec.forwards.map(({ ip, port }) => `${ip} ${port}`).toSorted()).toEqual(
    guests.map(({ ips }) => `${ips[0]} 81`).toSorted(),
  );
  const rules = await platform.reader.list(caller, kindOf('firewallrule'), { sort: 'name' });
  expect(spec.firewall.map(({ id }) => id)).toEqual(rules.items.map(({ id }) => id).reverse());
  // One of two guests of the role lost its tag; the four that came later have it.
  for (const rule of spec.firewall) expect(rule.guests).toHaveLength(2 * 5);
  expect(spec.wireguard!.peers).toHaveLength(3);
  const circles = await sql<{ n: number }>`select deadlocks::int as n from pg_stat_database
    where datname = current_database()`.execute(platform.db.operator);
  expect(circles.rows[0]!.n, 'waited for each other in a circle').toBe(0);
});

test('with cascade go before their network, which nothing is left of', { timeout: 60_000 }, async () => {
  const { tenantId } = caller.actor;
  // These are no machines that a job could remove.
  await platform.db.tenantTransaction(tenantId, async (tx) => {
    await sql`delete from dependency where tenant_id = ${tenantId} and target_id in
      (select id from resource where tenant_id = ${tenantId} and kind = 'instance')`.execute(tx);
    await sql`delete from lease where tenant_id = ${tenantId}`.execute(tx);
    await sql`delete from resource where tenant_id = ${tenantId} and kind = 'instance'`.execute(tx);
  });
  const removal = await platform.pipeline.remove(caller, kindOf('network'), net, { cascade: true });
  await platform.done(caller, removal);
  await platform.node.look();
  expect(platform.node.machine.has(net)).toBe(false);
  for (const table of [
    'network_part',
    'wireguard_door',
    'portforward',
    'firewallrule',
    'wireguardpeer',
    'public_port',
  ]) {
    const left = await sql`select 1 from ${sql.table(table)} where tenant_id = ${tenantId}`.execute(
      platform.db.operator,
    );
    expect(left.rows, table).toEqual([]);
  }
  const addresses = await platform.reader.list(caller, kindOf('publicaddress'), {});
  expect(addresses.items.map(({ name }) => name).toSorted()).toEqual(['shared-0', 'shared-1', 'shared-2', 'shared-3']);
});
