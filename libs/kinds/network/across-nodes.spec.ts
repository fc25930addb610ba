/** A network on several nodes: what each is told, who has the router, and where machines can be. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { NetworkSpec } from '#libs/drivers/contract';
import { kinds } from '#libs/kinds';
import { desiredRows } from '#libs/nodes';
import type { Caller } from '#libs/resources';
import { guestOn, ObedientNode, type Platform, publicPool, startPlatform } from '#libs/testing';
import { checkNetworkSpec } from '../../drivers/network/network-spec.js';
import {
  composeSpecs,
  leaveNode,
  moveRouter,
  nodesWithin,
  placeNetworks,
  refreshNetworks,
  tellMembers,
} from './index.js';

let platform: Platform;
let caller: Caller;
let tenantId: string;
let nodes: [ObedientNode, ObedientNode, ObedientNode];
let net: string;

const underlay = (n: number, networkMtu = 1450) => ({ address: `192.0.2.${n}`, port: 4789, networkMtu });
const kindOf = (name: string) => platform.registry.get(name);

beforeAll(async () => {
  platform = await startPlatform({ kinds });
  await publicPool(platform, 'public', '203.0.113.0', '203.0.113.255');
  const more = [1, 2].map(() => new ObedientNode(platform.db, platform.listener, platform.registry));
  nodes = [platform.node, more[0]!, more[1]!];
});
afterAll(async () => {
  for (const node of nodes.slice(1)) await node.close();
  await platform?.close();
});
beforeEach(async () => {
  for (const [i, node] of nodes.entries()) await node.register(underlay(i + 1));
  await sql`update node set gone_at = null`.execute(platform.db.operator);
  caller = await platform.tenant();
  tenantId = caller.actor.tenantId;
  net = await make('network', { name: 'lan', subnet: '10.7.0.0/24' });
});

async function make(kind: string, body: object): Promise<string> {
  const change = await platform.pipeline.create(caller, kindOf(kind), body);
  await platform.done(caller, change);
  return change.body.id;
}

const inTenant = <T>(work: Parameters<typeof platform.db.tenantTransaction<T>>[1]) =>
  platform.db.tenantTransaction(tenantId, work);
/** A machine on a node, with the network there. */
const machineOn = async (node: ObedientNode) => {
  const guest = await guestOn({ db: platform.db, node }, tenantId, [net]);
  await inTenant((tx) => placeNetworks(tx, tenantId, node.id, [net]));
  return guest;
};

const unexpected = (fields: object, message?: string) => {
  throw new Error(message, { cause: fields });
};

/** What a node is told, by the rows; undefined: nothing. */
async function told(node: ObedientNode, id = net): Promise<NetworkSpec | undefined> {
  const { db, registry } = platform;
  const rows = await desiredRows({ db, registry, log: { warn: unexpected } }, [node.id], { onlyUnreached: false });
  const row = rows.find(({ resource_id, present }) => resource_id === id && present);
  const spec = row?.spec as NetworkSpec | undefined;
  if (spec) checkNetworkSpec(spec);
  return spec;
}

async function revisions(): Promise<number[]> {
  const result = await sql<{ revision: number }>`
    select p.revision from placement p join node n on n.id = p.node_id
    where p.tenant_id = ${tenantId} and p.resource_id = ${net} order by n.underlay`.execute(platform.db.operator);
  return result.rows.map(({ revision }) => Number(revision));
}

describe('a network', () => {
  test('goes beyond a node with its second machine elsewhere, and its router stays where it was', async () => {
    const [a, b, c] = nodes;
    const first = await machineOn(a);
    expect((await told(a))?.overlay).toBeNull();
    const second = await machineOn(b);
    const third = await machineOn(c);
    await make('publicaddress', { name: 'www', instance: second.id });
    const [atA, atB] = [(await told(a))!, (await told(b))!];
    expect(atA.overlay).toMatchObject({
      address: '192.0.2.1',
      nodes: [{ address: '192.0.2.2', port: 4789 }, { address: '192.0.2.3' }],
      router: null,
    });
    expect(atB.overlay).toMatchObject({ vni: atA.overlay!.vni, address: '192.0.2.2', router: 0, walled: false });
    const places = (spec: NetworkSpec) => Object.fromEntries(spec.leases.map(({ ip, node }) => [ip, node ?? null]));
    expect(places(atA)).toEqual({ [first.ips[0]!]: null, [second.ips[0]!]: 0, [third.ips[0]!]: 1 });
    expect(places(atB)).toEqual({ [first.ips[0]!]: 0, [second.ips[0]!]: null, [third.ips[0]!]: 1 });
    // All that is a router's is told where it is, and names with it.
    expect(atA.publicAddresses).toMatchObject([{ ip: second.ips[0] }]);
    expect(atB.publicAddresses).toEqual([]);
    expect(atA.leases.every(({ hostname }) => hostname !== null)).toBe(true);
    expect(atB.leases.every(({ hostname }) => hostname === null)).toBe(true);
    expect(atB.gatewayMac).toBe(atA.gatewayMac);
  });

  test('tells only the router’s node of what is only the router’s', async () => {
    const [a, b] = nodes;
    const guest = await machineOn(a);
    await machineOn(b);
    const before = await revisions();
    await make('publicaddress', { name: 'www', instance: guest.id });
    await sql`update lease set hostname = 'renamed' where instance_id = ${guest.id}`.execute(platform.db.operator);
    await inTenant((tx) => refreshNetworks(tx, tenantId, [net]));
    const [atA, atB] = await revisions();
    expect(atA).toBeGreaterThan(before[0]!);
    expect(atB).toBe(before[1]);
    expect((await told(a))!.leases).toContainEqual(expect.objectContaining({ hostname: 'renamed' }));
  });

  test('is written small for each of its nodes, and sent as it is when it is sent', async () => {
    const [a, b] = nodes;
    await machineOn(a);
    const placed = async () => {
      const { rows } = await sql<{ spec: object }>`
        select spec from placement where resource_id = ${net} and present`.execute(platform.db.operator);
      return rows.map(({ spec }) => spec);
    };
    // On one node it stands in the row as ever, for servers of the version before.
    expect(await placed()).toEqual([await told(a)]);
    await machineOn(b);
    expect(await placed()).toEqual([{ composed: expect.any(String) }, { composed: expect.any(String) }]);
    const [wanted, other] = [a.id, b.id];
    expect([...(await composeSpecs(platform.db, tenantId, net, [wanted])).keys()]).toEqual([wanted]);
    expect(await composeSpecs(platform.db, tenantId, other, [wanted])).toEqual(new Map());
  });

  test('is sent with its nodes as they were told last, until they are told anew', async () => {
    const [a, b] = nodes;
    await machineOn(a);
    await machineOn(b);
    const before = await told(a);
    await sql`update node set underlay = '192.0.2.99' where id = ${b.id}`.execute(platform.db.operator);
    expect(await told(a)).toEqual(before);
    await tellMembers(platform.db, { nodeId: b.id });
    expect((await told(a))!.overlay!.nodes).toEqual([{ address: '192.0.2.99', port: 4789 }]);
  });

  test('has a number of its own', async () => {
    const [a, b] = nodes;
    const other = await make('network', { name: 'other', subnet: '10.7.0.0/24' });
    for (const node of [a, b]) {
      await machineOn(node);
      await inTenant((tx) => placeNetworks(tx, tenantId, node.id, [other]));
    }
    expect((await told(a, other))!.overlay!.vni).not.toBe((await told(a))!.overlay!.vni);
  });

  test('tells each of its nodes once of a change, and nobody of none', async () => {
    const [a, b] = nodes;
    await machineOn(a);
    await machineOn(b);
    const before = await revisions();
    await inTenant((tx) => refreshNetworks(tx, tenantId, [net]));
    await tellMembers(platform.db, {});
    expect(await revisions()).toEqual(before);
    await guestOn({ db: platform.db, node: b }, tenantId, [net]);
    await inTenant((tx) => refreshNetworks(tx, tenantId, [net]));
    const after = await revisions();
    expect(after).toHaveLength(2);
    expect(after.every((revision, i) => revision > before[i]!)).toBe(true);
  });

  test('has its router where it is asked to, and elsewhere when that node loses the network', async () => {
    const [a, b, c] = nodes;
    const first = await machineOn(a);
    const second = await machineOn(b);
    expect(await inTenant((tx) => moveRouter(tx, tenantId, net, b.id))).toBe(true);
    expect((await told(b))!.overlay!.router).toBeNull();
    expect((await told(a))!.overlay!.router).toBe(0);
    // Not where it does not stand.
    expect(await inTenant((tx) => moveRouter(tx, tenantId, net, c.id))).toBe(false);
    expect((await told(b))!.overlay!.router).toBeNull();
    await inTenant((tx) => leaveNode(tx, tenantId, b.id, [net], second.id));
    expect(await told(b)).toBeUndefined();
    expect((await told(a))!.overlay).toBeNull();
    expect(first.ips).toHaveLength(1);
  });

  test('begins to move its router at the node that is to have it, and ends by itself', async () => {
    const [a, b] = nodes;
    await machineOn(a);
    await machineOn(b);
    const before = await revisions();
    expect(await inTenant((tx) => moveRouter(tx, tenantId, net, b.id, true))).toBe(true);
    // Both have one for as long as that takes: the other is told nothing yet.
    const [atA, atB] = await revisions();
    expect(atA).toBe(before[0]);
    expect(atB).toBeGreaterThan(before[1]!);
    expect((await told(b))!.overlay!.router).toBeNull();
    // Whoever ordered it may be dead by now.
    await tellMembers(platform.db, {});
    expect((await revisions())[0]).toBeGreaterThan(atA!);
    expect((await told(a))!.overlay!.router).toBe(0);
    expect((await told(b))!.overlay!.router).toBeNull();
  });

  test('gives up a node that is fenced, with its router, and takes it in again', async () => {
    const [a, b, c] = nodes;
    await machineOn(a);
    await machineOn(b);
    await machineOn(c);
    const fence = (isGone: boolean) =>
      sql`update node set gone_at = case when ${isGone} then now() end where id = ${a.id}`.execute(
        platform.db.operator,
      );
    await fence(true);
    await tellMembers(platform.db, { nodeId: a.id });
    expect((await told(b))!.overlay).toMatchObject({ nodes: [{ address: '192.0.2.3' }], router: null });
    expect((await told(c))!.overlay).toMatchObject({ nodes: [{ address: '192.0.2.2' }], router: 0 });
    // When it is back it has to hear that the router is its own no more.
    expect((await told(a))!.overlay!.router).not.toBeNull();
    expect((await told(b))!.leases.filter(({ node }) => typeof node === 'number')).toHaveLength(1);
    await fence(false);
    await tellMembers(platform.db, { nodeId: a.id });
    expect((await told(b))!.overlay!.nodes).toHaveLength(2);
    expect((await told(b))!.overlay!.router).toBeNull();
  });

  test('follows a node to another underlay address', async () => {
    const [a, b] = nodes;
    await machineOn(a);
    await machineOn(b);
    await b.register(underlay(22));
    await tellMembers(platform.db, { nodeId: b.id });
    expect((await told(a))!.overlay!.nodes).toEqual([{ address: '192.0.2.22', port: 4789 }]);
    expect((await told(b))!.overlay!.address).toBe('192.0.2.22');
    // What a node does not know now is as it was.
    await b.register({ ...underlay(22), networkMtu: null });
    await tellMembers(platform.db, { nodeId: b.id });
    expect((await told(a))!.overlay!.nodes).toHaveLength(1);
  });
});

describe('a machine', () => {
  const required = () => inTenant((tx) => nodesWithin(tx, tenantId, [net]));
  /** Of this test's nodes. */
  const of = (ids: ReadonlySet<string> | undefined) =>
    [...(ids ?? [])].filter((id) => nodes.some((node) => node.id === id)).sort();

  test('can be on any node that its networks span', async () => {
    const [a, , c] = nodes;
    expect(await required()).toEqual([]);
    await machineOn(a);
    expect(of((await required())[0]?.never)).toEqual([]);
    await c.register(null);
    expect(of((await required())[0]!.never)).toEqual([c.id]);
    // Wider than what lies between.
    await c.register(underlay(3, 1400));
    expect(of((await required())[0]!.never)).toEqual([c.id]);
  });

  test('stays with the others of a network that cannot go beyond their node', async () => {
    const [a, b] = nodes;
    await a.register(null);
    await machineOn(a);
    expect(of((await required())[0]!.only)).toEqual([a.id]);
    // On two such nodes, as before there was a way between them: each has a router of its own.
    await b.register(null);
    await machineOn(b);
    expect(of((await required())[0]!.only)).toEqual([a.id, b.id].sort());
    expect((await told(a))!.overlay).toBeNull();
    expect((await told(b))!.overlay).toBeNull();
  });

  test('that moves takes along a network that nobody else is on, and no other', async () => {
    const [a, b] = nodes;
    await a.register(null);
    const { id: first } = await machineOn(a);
    const leaving = (id: string) => inTenant((tx) => nodesWithin(tx, tenantId, [net], id));
    expect(await leaving(first)).toEqual([]);
    const { id: second } = await machineOn(a);
    expect(of((await leaving(first))[0]!.only)).toEqual([a.id]);
    await a.register(underlay(1));
    await b.register(null);
    expect(of((await leaving(second))[0]!.never)).toEqual([b.id]);
  });

  test('keeps its network as wide as what lies between its nodes', async () => {
    const [a, b] = nodes;
    await machineOn(a);
    const update = (mtu: number) => platform.pipeline.update(caller, kindOf('network'), net, { mtu });
    await machineOn(b);
    await expect(update(1500)).rejects.toMatchObject({ code: 'in_use', details: { errors: [{ pointer: '/mtu' }] } });
    await expect(update(1400)).resolves.toBeDefined();
  });
});
