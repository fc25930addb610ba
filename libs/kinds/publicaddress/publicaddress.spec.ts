/** Public addresses: each has one owner in the installation, and leads to one machine. */
import 'reflect-metadata';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { formatIpv4, newId, parseIpv4 } from '#libs/core';
import type { NetworkSpec } from '#libs/drivers/contract';
import { network } from '#libs/kinds/network';
import type { Caller } from '#libs/resources';
import { type Guest, guestOn, type Platform, publicPool, startPlatform } from '#libs/testing';
import { publicaddress } from './index.js';

let platform: Platform;
let caller: Caller;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [network, publicaddress] });
  await publicPool(platform, 'public', '203.0.113.0', '203.0.113.255');
});
afterAll(() => platform?.close());
beforeEach(async () => {
  caller = await platform.tenant();
});

const unique = () => `x-${newId().slice(-12)}`;

async function make(body: object, who = caller) {
  const change = await platform.pipeline.create(who, publicaddress, { name: unique(), ...body });
  await platform.done(who, change);
  return (await platform.reader.get(who, publicaddress, change.body.id)).body as Record<string, any>;
}

async function set(id: string, patch: object) {
  await platform.done(caller, await platform.pipeline.update(caller, publicaddress, id, patch));
  return (await platform.reader.get(caller, publicaddress, id)).body as Record<string, any>;
}

/** A network that stands on the node. */
async function placedNetwork(): Promise<string> {
  const change = await platform.pipeline.create(caller, network, { name: unique(), subnet: '10.7.0.0/24' });
  await platform.done(caller, change);
  const { placeNetworks } = await import('#libs/kinds/network');
  await platform.db.tenantTransaction(caller.actor.tenantId, (tx) =>
    placeNetworks(tx, caller.actor.tenantId, platform.node.id, [change.body.id]),
  );
  await platform.node.look();
  return change.body.id;
}

const guest = (...networks: string[]): Promise<Guest> => guestOn(platform, caller.actor.tenantId, networks);

/** What the node has made of a network. */
function onNode(networkId: string): NetworkSpec {
  return platform.node.machine.get(networkId)!.spec as unknown as NetworkSpec;
}

function refuseToLeadTo(guestIp: string): void {
  platform.node.refuse = ({ spec }) =>
    (spec as unknown as NetworkSpec).publicAddresses.some(({ ip }) => ip === guestIp)
      ? { code: 'refused', message: 'the test says no' }
      : undefined;
}

describe('a public address', () => {
  test('leads to its instance on the nodes when the job has ended, and no longer when it is taken away', async () => {
    const [first, second] = [await placedNetwork(), await placedNetwork()];
    const one = await guest(first, second);
    const two = await guest(second);
    const made = await make({ instance: one.name });
    expect(made).toMatchObject({ pool: 'public', instance: one.id, network: first });
    expect(onNode(first).publicAddresses).toEqual([{ publicIp: made.ip, ip: one.ips[0] }]);
    expect(await set(made.id, { instance: two.id })).toMatchObject({ instance: two.id, network: second });
    expect(onNode(first).publicAddresses).toEqual([]);
    expect(onNode(second).publicAddresses).toEqual([{ publicIp: made.ip, ip: two.ips[0] }]);
    expect(await set(made.id, { instance: null })).toMatchObject({ instance: null, network: null, ip: made.ip });
    expect(onNode(second).publicAddresses).toEqual([]);
    const edges = await sql`select 1 from dependency where resource_id = ${made.id}`.execute(platform.db.operator);
    expect(edges.rows).toEqual([]);
  });

  test('that a node refused leads where it was to lead once that is retried', async () => {
    const net = await placedNetwork();
    const [one, two] = [await guest(net), await guest(net)];
    const made = await make({ instance: one.id });
    refuseToLeadTo(two.ips[0]!);
    const change = await platform.pipeline.update(caller, publicaddress, made.id, { instance: two.id });
    expect((await platform.ended(caller, change.jobId!)).state).toBe('failed');
    platform.node.refuse = () => undefined;
    await platform.node.look();
    await platform.jobs.retry(caller, change.jobId!);
    expect((await platform.ended(caller, change.jobId!)).state).toBe('succeeded');
    expect((await platform.reader.get(caller, publicaddress, made.id)).body).toMatchObject({ instance: two.id });
    expect(onNode(net).publicAddresses).toEqual([{ publicIp: made.ip, ip: two.ips[0] }]);
  });

  test('that a node refuses goes back to where it was, and what it was to lead to is free', async () => {
    const net = await placedNetwork();
    const [one, two] = [await guest(net), await guest(net)];
    const made = await make({ instance: one.id });
    refuseToLeadTo(two.ips[0]!);
    const change = await platform.pipeline.update(caller, publicaddress, made.id, { instance: two.id });
    expect(await platform.ended(caller, change.jobId!)).toMatchObject({
      state: 'failed',
      error: { detail: expect.stringContaining('the test says no') },
    });
    const failed = await platform.pipeline.create(caller, publicaddress, { name: 'failed', instance: two.id });
    expect((await platform.ended(caller, failed.jobId!)).state).toBe('failed');
    platform.node.refuse = () => undefined;
    expect((await platform.reader.get(caller, publicaddress, made.id)).body).toMatchObject({
      instance: one.id,
      state: 'ready',
    });
    await platform.node.look();
    expect(onNode(net).publicAddresses).toEqual([{ publicIp: made.ip, ip: one.ips[0] }]);
    await platform.done(caller, await platform.pipeline.remove(caller, publicaddress, 'failed'));
    expect(await make({ instance: two.id })).toMatchObject({ instance: two.id });
  });

  test('is the only one of its instance, also while another one’s update may still go back to it', async () => {
    const net = await placedNetwork();
    const [one, two] = [await guest(net), await guest(net)];
    const made = await make({ instance: one.id });
    const refused = { code: 'in_use', details: { errors: [{ pointer: '/instance' }], blockers: [{ id: made.id }] } };
    await expect(make({ instance: one.id })).rejects.toMatchObject(refused);
    platform.node.isAway = true;
    const moving = await platform.pipeline.update(caller, publicaddress, made.id, { instance: two.id });
    await expect(make({ instance: one.id })).rejects.toMatchObject(refused);
    await expect(make({ instance: two.id })).rejects.toMatchObject(refused);
    platform.node.isAway = false;
    await platform.node.look();
    await platform.done(caller, moving);
    await make({ instance: one.id });
  });

  test('of an instance that is not on any network, or of another tenant, is refused', async () => {
    const lonely = await guest();
    const stranger = await guestOn(platform, (await platform.tenant()).actor.tenantId, []);
    const refused = { code: 'invalid', details: { errors: [{ pointer: '/instance' }] } };
    await expect(make({ instance: lonely.id })).rejects.toMatchObject(refused);
    await expect(make({ instance: stranger.id })).rejects.toMatchObject(refused);
    await expect(make({ instance: newId() })).rejects.toMatchObject(refused);
  });
});

describe('a pool', () => {
  test('gives the lowest free address, after any sequence of claims and releases', async () => {
    let round = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(fc.option(fc.nat(9)), { maxLength: 30 }), async (acts) => {
        const pool = `model-${round++}`;
        const first = parseIpv4('198.51.100.0')! + 8 * round;
        await publicPool(platform, pool, formatIpv4(first), formatIpv4(first + 4));
        const taken: (string | undefined)[] = [undefined, undefined, undefined, undefined, undefined];
        for (const act of acts) {
          if (act === null) {
            const at = taken.indexOf(undefined);
            const claimed = await claim(pool);
            expect(claimed?.ip).toBe(at < 0 ? undefined : formatIpv4(first + at));
            if (at >= 0) taken[at] = claimed!.id;
          } else if (taken[act % 5] !== undefined) {
            await release(taken[act % 5]!);
            taken[act % 5] = undefined;
          }
        }
      }),
      { numRuns: 8 },
    );
  });

  test('of 10 addresses serves exactly 10 of 200 that ask at once, from whichever tenant', async () => {
    await publicPool(platform, 'ten', '192.0.2.10', '192.0.2.19');
    const callers = [caller, await platform.tenant(), await platform.tenant()];
    const outcomes = await Promise.allSettled(
      Array.from({ length: 200 }, (_, i) =>
        platform.pipeline.create(callers[i % 3]!, publicaddress, { name: `many-${i}`, pool: 'ten' }),
      ),
    );
    const ips = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [String(outcome.value.body.ip)] : []));
    expect(ips.toSorted()).toEqual(Array.from({ length: 10 }, (_, i) => `192.0.2.${10 + i}`));
    for (const outcome of outcomes) {
      if (outcome.status === 'rejected') expect(outcome.reason).toMatchObject({ code: 'no_free_address' });
    }
  });

  /** As a request's transaction takes and gives back, without jobs. */
  async function claim(pool: string): Promise<{ ip: string; id: string } | undefined> {
    const change = platform.pipeline.create(caller, publicaddress, { name: unique(), pool });
    const { body } = await change.catch((error: { code: string }) => {
      expect(error.code).toBe('no_free_address');
      return { body: undefined };
    });
    return body && { ip: String(body.ip), id: body.id };
  }

  async function release(id: string): Promise<void> {
    await platform.done(caller, await platform.pipeline.remove(caller, publicaddress, id));
  }
});
