/** Firewall rules: in their order on the nodes, and for the machines that their selectors mean at each moment. */
import 'reflect-metadata';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { newId, type Tags } from '#libs/core';
import type { FirewallRuleSpec, NetworkSpec } from '#libs/drivers/contract';
import { network, placeNetworks, refreshNetworks } from '#libs/kinds/network';
import type { Caller, KindDefinition } from '#libs/resources';
import { guestOn, type Platform, startPlatform } from '#libs/testing';
import { MAX_RULES } from './firewallrule.resource.js';
import { firewallrule } from './index.js';
import { parsePorts } from './ports.js';

let platform: Platform;
let caller: Caller;
let net: string;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [network, firewallrule] });
});
afterAll(() => platform?.close());
beforeEach(async () => {
  caller = await platform.tenant();
  const { tenantId } = caller.actor;
  net = await make(network, { name: 'lan', subnet: '10.7.0.0/24', subnet6: 'fd00::/120' });
  await inTenant((tx) => placeNetworks(tx, tenantId, platform.node.id, [net]));
});

const inTenant = <T>(work: Parameters<typeof platform.db.tenantTransaction<T>>[1]) =>
  platform.db.tenantTransaction(caller.actor.tenantId, work);

async function make(kind: KindDefinition, body: object): Promise<string> {
  const change = await platform.pipeline.create(caller, kind, body);
  await platform.done(caller, change);
  return change.body.id;
}

const rule = (more: object) => ({
  name: `r-${newId().slice(-12)}`,
  network: 'lan',
  priority: 100,
  direction: 'in',
  action: 'allow',
  ...more,
});

const guest = (tags: Tags) => guestOn(platform, caller.actor.tenantId, [net], tags);

async function onNode(): Promise<FirewallRuleSpec[]> {
  await platform.node.look();
  return (platform.node.machine.get(net)!.spec as unknown as NetworkSpec).firewall;
}

/** As the instance's kind does when a user changes its tags. */
const retag = (id: string, tags: Tags) =>
  inTenant(async (tx) => {
    await sql`update resource set tags = ${JSON.stringify(tags)}::jsonb where id = ${id}`.execute(tx);
    await refreshNetworks(tx, caller.actor.tenantId, [net]);
  });

describe('firewall rules', () => {
  test('are on the nodes by priority, then by name, and follow every change', async () => {
    const made: Record<string, string> = {};
    for (const [name, priority] of [
      ['b', 100],
      ['c', 10],
      ['a', 100],
    ] as const) {
      made[name] = await make(firewallrule, rule({ name, priority }));
    }
    const order = async () => (await onNode()).map(({ id }) => Object.keys(made).find((name) => made[name] === id));
    expect(await order()).toEqual(['c', 'a', 'b']);
    await platform.done(caller, await platform.pipeline.update(caller, firewallrule, 'c', { priority: 200 }));
    expect(await order()).toEqual(['a', 'b', 'c']);
    await platform.done(caller, await platform.pipeline.update(caller, firewallrule, 'a', { name: 'z' }));
    expect(await order()).toEqual(['b', 'a', 'c']);
    await platform.done(caller, await platform.pipeline.remove(caller, firewallrule, 'b'));
    expect(await order()).toEqual(['a', 'c']);
  });

  test('name the addresses of the machines that their selectors mean, of both families, as tags change', async () => {
    const [web, admin] = [await guest({ role: 'web' }), await guest({ role: 'admin' })];
    const id = await make(
      firewallrule,
      rule({ protocol: 'tcp', ports: ['22', '8000-8100'], remoteTags: 'role=admin', targetTags: 'role in (web,db)' }),
    );
    const both = (ip: string) => [ip, `fd00::${Number(ip.split('.')[3]).toString(16)}`];
    const spec = {
      id,
      direction: 'in',
      action: 'allow',
      protocol: 'tcp',
      ports: [
        { from: 22, to: 22 },
        { from: 8000, to: 8100 },
      ],
      remotes: both(admin.ips[0]!),
      guests: both(web.ips[0]!),
    };
    expect(await onNode()).toEqual([spec]);
    await retag(admin.id, { role: 'db' });
    // Nobody is an admin: still a rule, for nobody, so that what no rule allows stays refused.
    expect(await onNode()).toEqual([{ ...spec, remotes: [], guests: [...spec.guests, ...spec.remotes] }]);
    await retag(web.id, {});
    await retag(admin.id, {});
    expect(await onNode()).toEqual([]);
  });

  test('without selectors are for everybody', async () => {
    await make(firewallrule, rule({ direction: 'out', action: 'deny', remoteCidrs: ['192.0.2.0/24'] }));
    expect(await onNode()).toMatchObject([{ direction: 'out', remotes: ['192.0.2.0/24'], guests: null, ports: [] }]);
  });

  test(`are ${MAX_RULES} a network at most, also of many that come at once`, async () => {
    await inTenant(async (tx) => {
      const { tenantId } = caller.actor;
      await sql`insert into resource (tenant_id, id, kind, name, state, created_by, observed_generation)
        select ${tenantId}, gen_random_uuid(), 'firewallrule', 'many-' || n, 'ready', 't', 1
        from generate_series(1, ${MAX_RULES - 3}::int) n`.execute(tx);
      await sql`insert into firewallrule (tenant_id, id, network_id, priority, direction, action, protocol)
        select tenant_id, id, ${net}, 1, 'in', 'allow', 'any' from resource
        where tenant_id = ${tenantId} and kind = 'firewallrule'`.execute(tx);
      await sql`insert into dependency (tenant_id, resource_id, target_tenant_id, target_id, relation)
        select tenant_id, id, tenant_id, network_id, 'is part of' from firewallrule
        where tenant_id = ${tenantId}`.execute(tx);
    });
    const outcomes = await Promise.allSettled(
      Array.from({ length: 10 }, () => platform.pipeline.create(caller, firewallrule, rule({}))),
    );
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(3);
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'limit_reached' });
    }
  });

  test('keep their network from being removed', async () => {
    const id = await make(firewallrule, rule({}));
    await expect(platform.pipeline.remove(caller, network, net)).rejects.toMatchObject({
      code: 'in_use',
      details: { blockers: [{ kind: 'firewallrule', id }] },
    });
  });
});

test('ports are read as they are written', () => {
  const port = fc.integer({ min: 1, max: 65_535 });
  fc.assert(
    fc.property(port, port, (a, b) => {
      expect(parsePorts(String(a))).toEqual({ from: a, to: a });
      expect(parsePorts(`${a}-${b}`)).toEqual(a <= b ? { from: a, to: b } : undefined);
    }),
  );
  for (const text of ['', '0', '080', '-1', '1-', '65536', '1-65536', ' 80', '80 ', '1,2']) {
    expect(parsePorts(text), text).toBeUndefined();
  }
});
