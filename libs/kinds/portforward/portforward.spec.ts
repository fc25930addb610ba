/** Port forwards: each port of an address leads to one machine, and nothing that it needs disappears. */
import 'reflect-metadata';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import type { NetworkSpec } from '#libs/drivers/contract';
import { network, placeNetworks } from '#libs/kinds/network';
import { publicaddress } from '#libs/kinds/publicaddress';
import type { Caller, KindDefinition } from '#libs/resources';
import { type Guest, guestOn, type Platform, publicPool, startPlatform } from '#libs/testing';
import { portforward } from './index.js';
import { MAX_FORWARDS } from './portforward.resource.js';

let platform: Platform;
let caller: Caller;
let net: string;
let guest: Guest;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [network, publicaddress, portforward] });
  await publicPool(platform, 'public', '203.0.113.0', '203.0.113.255');
});
afterAll(() => platform?.close());
beforeEach(async () => {
  caller = await platform.tenant();
  const { tenantId } = caller.actor;
  net = (await make(network, { name: 'lan', subnet: '10.7.0.0/24' })).id;
  await platform.db.tenantTransaction(tenantId, (tx) => placeNetworks(tx, tenantId, platform.node.id, [net]));
  guest = await guestOn(platform, tenantId, [net]);
  await make(publicaddress, { name: 'front' });
});

async function make(kind: KindDefinition, body: object) {
  const change = await platform.pipeline.create(caller, kind, body);
  await platform.done(caller, change);
  return (await platform.reader.get(caller, kind, change.body.id)).body as Record<string, any>;
}

const body = (port: number, more: object = {}) => ({
  name: `f-${newId().slice(-12)}`,
  publicAddress: 'front',
  protocol: 'tcp',
  port,
  instance: guest.id,
  ...more,
});

const onNode = () => (platform.node.machine.get(net)!.spec as unknown as NetworkSpec).forwards;

describe('a port forward', () => {
  test('is on the nodes when the job has ended, as it is changed to, and gone before it is', async () => {
    const { pipeline } = platform;
    const made = await make(portforward, body(443, { targetPort: 8443 }));
    expect(made).toMatchObject({ network: net, port: 443, targetPort: 8443 });
    const spec = { publicIp: made.ip, protocol: 'tcp', port: 443, ip: guest.ips[0], targetPort: 8443 };
    expect(onNode()).toEqual([spec]);
    await platform.done(caller, await pipeline.update(caller, portforward, made.id, { port: 80, targetPort: null }));
    expect(onNode()).toEqual([{ ...spec, port: 80, targetPort: 80 }]);
    await platform.done(caller, await pipeline.remove(caller, portforward, made.id));
    expect(onNode()).toEqual([]);
  });

  test('is listed by its port, of which no number is too large to ask for', async () => {
    const made = await make(portforward, body(443));
    const listed = async (port: string) => (await platform.reader.list(caller, portforward, { port })).items;
    expect(await listed('443')).toMatchObject([{ id: made.id }]);
    for (const port of ['3000000000', '-999999999999999']) expect(await listed(port)).toEqual([]);
    await expect(platform.reader.list(caller, network, { subnet6: 'fd00::/064' })).rejects.toMatchObject({
      code: 'invalid',
      details: { errors: [{ parameter: 'subnet6' }] },
    });
  });

  test('keeps its address, instance and network from being removed', async () => {
    const made = await make(portforward, body(443));
    const refused = { code: 'in_use', details: { blockers: [{ kind: 'portforward', id: made.id }] } };
    await expect(platform.pipeline.remove(caller, publicaddress, 'front')).rejects.toMatchObject(refused);
    await expect(platform.pipeline.remove(caller, network, net)).rejects.toMatchObject({ code: 'in_use' });
  });

  test('has its port alone, of many that ask at once; tcp and udp are two', async () => {
    const outcomes = await Promise.allSettled(
      Array.from({ length: 20 }, () => platform.pipeline.create(caller, portforward, body(53))),
    );
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') {
        expect(outcome.reason).toMatchObject({ code: 'port_in_use', details: { errors: [{ pointer: '/port' }] } });
      }
    }
    await make(portforward, body(53, { protocol: 'udp' }));
  });

  test('holds its old port and its new one while it is changed', async () => {
    const made = await make(portforward, body(1000));
    platform.node.isAway = true;
    const change = await platform.pipeline.update(caller, portforward, made.id, { port: 1001 });
    for (const port of [1000, 1001]) {
      await expect(platform.pipeline.create(caller, portforward, body(port))).rejects.toMatchObject({
        code: 'port_in_use',
      });
    }
    platform.node.isAway = false;
    await platform.jobs.cancel(caller, change.jobId!);
    await platform.node.look();
    expect((await platform.ended(caller, change.jobId!)).state).toBe('cancelled');
    expect((await platform.reader.get(caller, portforward, made.id)).body.port).toBe(1000);
    await make(portforward, body(1001));
    await platform.node.look();
    expect(new Set(onNode().map(({ port }) => port))).toEqual(new Set([1000, 1001]));
  });

  test(`is one of ${MAX_FORWARDS} of its network at most`, async () => {
    const { tenantId } = caller.actor;
    await platform.db.operatorTransaction(async (tx) => {
      await sql`insert into resource (tenant_id, id, kind, name, state, created_by, observed_generation)
        select ${tenantId}, gen_random_uuid(), 'portforward', 'many-' || n, 'ready', 't', 1
        from generate_series(1, ${MAX_FORWARDS - 1}::int) n`.execute(tx);
      await sql`insert into dependency (tenant_id, resource_id, target_tenant_id, target_id, relation)
        select tenant_id, id, tenant_id, ${net}, 'is part of' from resource
        where tenant_id = ${tenantId} and name like 'many-%'`.execute(tx);
    });
    const outcomes = await Promise.allSettled(
      [1, 2, 3].map((port) => platform.pipeline.create(caller, portforward, body(port))),
    );
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'limit_reached' });
    }
  });

  test('goes over the network that is asked for', async () => {
    const { tenantId } = caller.actor;
    const other = (await make(network, { name: 'dmz', subnet: '10.8.0.0/24' })).id;
    const both = await guestOn(platform, tenantId, [net, other]);
    const made = await make(portforward, body(25, { instance: both.name, network: 'dmz' }));
    expect(made.network).toBe(other);
    const first = await make(portforward, body(26, { instance: both.name }));
    expect(first.network).toBe(net);
    const refused = { code: 'invalid', details: { errors: [{ pointer: '/network' }] } };
    await expect(platform.pipeline.create(caller, portforward, body(27, { network: 'dmz' }))).rejects.toMatchObject(
      refused,
    );
  });
});
