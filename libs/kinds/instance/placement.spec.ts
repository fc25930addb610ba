/** Where instances come: by tags of the tenant's others, by labels of nodes, spread over domains; and the words of a refusal. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { kinds } from '#libs/kinds';
import type { Caller } from '#libs/resources';
import { globalImage, type Platform, startPlatform } from '#libs/testing';

let platform: Platform;
let caller: Caller;

beforeAll(async () => {
  platform = await startPlatform({ kinds, workers: false });
  await globalImage(platform);
  await setOwnNode({ cordoned: true });
  await platform.db.operator
    .updateTable('installation')
    .set({ placement_labels: ['zone', 'gpu'] })
    .execute();
});
afterAll(() => platform?.close());
beforeEach(async () => {
  await sql`update node set cordoned = true`.execute(platform.db.operator);
  caller = await tenantWithNetwork();
});

async function tenantWithNetwork(): Promise<Caller> {
  const made = await platform.tenant();
  const network = platform.registry.get('network');
  await platform.pipeline.create(made, network, { name: 'lan', subnet: '10.80.0.0/24' });
  await sql`update resource set state = 'ready' where tenant_id = ${made.actor.tenantId}`.execute(platform.db.operator);
  return made;
}

const setOwnNode = (values: object) =>
  platform.db.operator.updateTable('node').set(values).where('id', '=', platform.node.id).execute();

let nodes = 0;
/** A node that has room for four machines; returns its name. */
async function node(labels: Record<string, string> = {}, values: object = {}): Promise<string> {
  const name = `p${++nodes}`;
  await platform.db.operator
    .insertInto('node')
    .values({
      id: newId(),
      name,
      driver: 'test',
      agent_version: '1',
      // Never silent.
      last_seen_at: new Date(Date.now() + 3_600_000),
      kinds: ['network', 'disk', 'instance'],
      labels: JSON.stringify(labels),
      ...{ vcpus: 8, memory_mib: 512, disk_gib: 100, ...values },
    })
    .execute();
  return name;
}

async function create(tags: Record<string, string>, placement?: object, more: object = {}, by = caller) {
  const body = { name: `m-${newId().slice(-8)}`, image: 'tiny', vcpus: 1, memoryMiB: 128, ...more };
  const whole = { ...body, interfaces: [{ network: 'lan' }], tags, ...(placement && { placement }) };
  const { body: made } = await platform.pipeline.create(by, platform.registry.get('instance'), whole);
  return made;
}

/** The node that each of so many comes to, made one after the other. */
async function placed(count: number, tags: Record<string, string>, placement?: object, by = caller) {
  const names: string[] = [];
  for (let n = 0; n < count; n++) names.push((await create(tags, placement, {}, by)).node as string);
  return names;
}

describe('affinity', () => {
  test('keeps together and apart what is required, and where it can what is preferred', async () => {
    const [a, b] = [await node(), await node()];
    const [db] = await placed(1, { role: 'db' });
    expect(await placed(2, { role: 'web' }, { affinity: 'role=db' })).toEqual([db, db]);
    const [apart] = await placed(1, { role: 'db' }, { antiAffinity: 'role=db' });
    expect([db, apart].sort()).toEqual([a, b]);
    // One place is left beside the first, three beside the second.
    expect(await placed(2, {}, { preferredAffinity: 'role=web' })).toEqual([db, apart]);
    expect(await placed(1, {}, { preferredAntiAffinity: 'role=db,role!=web' })).toEqual([apart]);
  });

  test('looks at the tenant’s own machines only', async () => {
    await node();
    await placed(1, { role: 'db' });
    const other = await tenantWithNetwork();
    await expect(placed(1, {}, { antiAffinity: 'role=db' })).rejects.toMatchObject({ code: 'no_capacity' });
    expect(await placed(1, {}, { antiAffinity: 'role=db' }, other)).toHaveLength(1);
  });

  test('required, of ten at once for three nodes: three are made, each on a node of its own', async () => {
    const names = [await node(), await node(), await node()];
    const outcomes = await Promise.allSettled(
      Array.from({ length: 10 }, () => create({ role: 'db' }, { antiAffinity: 'role=db' })),
    );
    const made = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value.node] : []));
    expect(made.sort()).toEqual(names);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'no_capacity' });
    }
  });
});

describe('spread', () => {
  const spread = { spread: { over: 'zone', among: 'app=shop' } };

  test('goes to the zone with the fewest, and elsewhere when that is full', async () => {
    const zones = new Map<string, string>();
    for (const zone of ['z1', 'z1', 'z1', 'z2', 'z3']) zones.set(await node({ zone }), zone);
    const unlabelled = await node();
    const of = async (count: number, wish: object = spread) =>
      (await placed(count, { app: 'shop' }, wish)).map((name) => zones.get(name) ?? name);
    expect((await of(3)).sort()).toEqual(['z1', 'z2', 'z3']);
    expect((await of(9)).sort()).toEqual([...Array(3).fill('z1'), ...Array(3).fill('z2'), ...Array(3).fill('z3')]);
    // z2 and z3 are full now; z1 has nine places and the node without a zone four.
    expect((await of(12)).filter((zone) => zone === unlabelled)).toHaveLength(4);
  });

  test('required, refuses where the emptiest zone has no room', async () => {
    await node({ zone: 'z1' });
    await node({ zone: 'z2' }, { memory_mib: 128 });
    await node();
    const wish = { spread: { ...spread.spread, required: true } };
    await placed(3, { app: 'shop' }, wish);
    await expect(placed(1, { app: 'shop' }, wish)).rejects.toMatchObject({
      message:
        '2 nodes have the room, but none of them satisfies placement.spread (app=shop over zone). ' +
        'Where all is satisfied, at most 63 vcpus, 0 MiB and 99 GiB would fit.',
      details: {
        extensions: {
          nodes: 3,
          withRoom: 2,
          requirements: [{ name: 'placement.spread', asks: 'app=shop over zone', nodes: 1, withRoom: 0 }],
        },
      },
    });
  });
});

describe('labels of nodes', () => {
  test('are a requirement, with all that selectors can say', async () => {
    const [gpu, plain] = [await node({ gpu: 'yes', zone: 'z1' }), await node({ zone: 'z2' })];
    expect(await placed(2, {}, { nodes: 'gpu=yes' })).toEqual([gpu, gpu]);
    expect(await placed(1, {}, { nodes: '!gpu' })).toEqual([plain]);
    expect(await placed(1, {}, { nodes: 'zone in (z1,z3)' })).toEqual([gpu]);
    expect(await placed(1, {}, { nodes: 'zone notin (z1,z3), zone' })).toEqual([plain]);
    await expect(placed(1, {}, { nodes: 'zone=z9' })).rejects.toMatchObject({ code: 'no_capacity' });
  });

  test('that administrators do not let tenants choose by are refused with their place', async () => {
    await node({ rack: 'r1' });
    const wish = { nodes: 'gpu=yes,rack=r1', spread: { over: 'rack', among: 'a' } };
    await expect(create({}, wish)).rejects.toMatchObject({
      code: 'invalid',
      details: {
        errors: [
          {
            pointer: '/placement/nodes',
            message: 'has “rack”, which is no label of nodes to choose by; there are: gpu, zone',
          },
          { pointer: '/placement/spread/over' },
        ],
      },
    });
  });
});

describe('a refusal', () => {
  test('says which requirement no node with room satisfies', async () => {
    await node({ gpu: 'yes' }, { memory_mib: 128 });
    await node({ zone: 'z1' });
    await placed(1, { role: 'db' }, { nodes: '!gpu' });
    const refusal = (placement: object, more: object = {}) => expect(create({}, placement, more)).rejects;
    await refusal({ nodes: 'gpu', antiAffinity: 'role=cache' }, { memoryMiB: 256 }).toMatchObject({
      message:
        '1 node has the room, but it does not satisfy placement.nodes (gpu). ' +
        'Where all is satisfied, at most 64 vcpus, 128 MiB and 100 GiB would fit.',
    });
    await refusal({ nodes: 'gpu', affinity: 'role=db' }).toMatchObject({
      message:
        '2 nodes have the room, but none of them satisfies all of placement.nodes (gpu), placement.affinity (role=db).',
    });
    await refusal({ nodes: 'gpu' }, { memoryMiB: 1024 }).toMatchObject({
      message: 'No node has the room: memoryMiB is short. At most 64 vcpus, 384 MiB and 100 GiB would fit.',
    });
  });

  test('and a dry run decide as the change itself would, and take nothing', async () => {
    const name = await node();
    const instance = platform.registry.get('instance');
    const body = {
      ...{
        name: 'dry',
        image: 'tiny',
        vcpus: 1,
        memoryMiB: 512,
        interfaces: [{ network: 'lan' }],
        tags: { role: 'db' },
      },
      placement: { antiAffinity: 'role=db' },
    };
    const dry = await platform.pipeline.create(caller, instance, body, { dryRun: true });
    expect(dry.body.node).toBe(name);
    await placed(1, { role: 'db' });
    await expect(
      platform.pipeline.create(caller, instance, { ...body, memoryMiB: 128 }, { dryRun: true }),
    ).rejects.toMatchObject({ code: 'no_capacity' });
  });
});
