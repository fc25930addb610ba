/** Addresses under any sequence of claims and releases: always the lowest free one, never one twice, the counter true. */
import 'reflect-metadata';
import fc from 'fast-check';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { formatIpv4, newId, parseCidr4, parseIpv4, RhyzomeError } from '#libs/core';
import { type TestDatabase, testDatabase } from '#libs/testing';
import { claimLease, MAX_LEASES, randomMac } from './leases.js';
import { firstHost, usableAddresses } from './subnet.js';

const TENANT = 'acme';
let database: TestDatabase;

beforeAll(async () => {
  database = await testDatabase();
  await sql`insert into tenant (id, display_name) values (${TENANT}, 'Acme')`.execute(database.db.operator);
});
afterAll(() => database?.close());

async function network(subnet: string, gateway = firstHost(subnet)): Promise<string> {
  const id = newId();
  await database.db.tenantTransaction(TENANT, async (tx) => {
    await sql`insert into resource (tenant_id, id, kind, name, state, created_by)
      values (${TENANT}, ${id}, 'network', ${`n-${id.slice(-12)}`}, 'ready', 't')`.execute(tx);
    await sql`insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
      values (${TENANT}, ${id}, ${subnet}, ${gateway}, 1450, ${usableAddresses(subnet)}, ${firstHost(subnet)})`.execute(
      tx,
    );
  });
  return id;
}

/** The address, or the code of the refusal. */
async function claim(networkId: string, ip?: string): Promise<string> {
  try {
    return await database.db.tenantTransaction(TENANT, async (tx) => {
      const lease = { tenantId: TENANT, networkId, ip, mac: randomMac(), hostname: null, pointer: '/ip' };
      return (await claimLease(tx, lease)).ip.split('/')[0]!;
    });
  } catch (error) {
    if (error instanceof RhyzomeError) return error.code;
    throw error;
  }
}

const release = (networkId: string, ip: string) =>
  database.db.tenantTransaction(TENANT, (tx) =>
    sql`delete from lease where tenant_id = ${TENANT} and network_id = ${networkId} and ip = ${ip}::inet`.execute(tx),
  );

async function counterOf(networkId: string): Promise<number> {
  const [row] = await database.db.tenantRead(
    TENANT,
    sql<{ n: number }>`select address_used as n from network where id = ${networkId}`.compile(database.db.builder),
  );
  return row!.n;
}

/** What a network is by its rules, without a database. */
class Model {
  readonly taken = new Set<number>();
  readonly hosts: number[];
  constructor(subnet: string, gateway: string) {
    const { network, prefix } = parseCidr4(subnet)!;
    const size = 2 ** (32 - prefix);
    this.hosts = Array.from({ length: size - 2 }, (_, i) => network + 1 + i).filter((ip) => ip !== parseIpv4(gateway));
  }
  claim(ip?: string): string {
    if (ip !== undefined && this.taken.has(parseIpv4(ip)!)) return 'address_in_use';
    const address = ip === undefined ? this.hosts.find((host) => !this.taken.has(host)) : parseIpv4(ip)!;
    if (address === undefined) return 'no_free_address';
    this.taken.add(address);
    return formatIpv4(address);
  }
}

type Act = { do: 'next' } | { do: 'ask' | 'release'; which: number };

describe('claiming an address', () => {
  test('agrees with the model after any sequence', async () => {
    const act: fc.Arbitrary<Act> = fc.oneof(
      { weight: 4, arbitrary: fc.constant<Act>({ do: 'next' }) },
      { weight: 2, arbitrary: fc.nat(12).map((which): Act => ({ do: 'ask', which })) },
      { weight: 3, arbitrary: fc.nat(12).map((which): Act => ({ do: 'release', which })) },
    );
    await fc.assert(
      fc.asyncProperty(fc.nat(12), fc.array(act, { minLength: 5, maxLength: 40 }), async (gatewayAt, acts) => {
        const subnet = '10.9.0.0/28';
        const gateway = formatIpv4(parseCidr4(subnet)!.network + 1 + gatewayAt);
        const model = new Model(subnet, gateway);
        const id = await network(subnet, gateway);
        for (const one of acts) {
          if (one.do === 'next') expect(await claim(id)).toBe(model.claim());
          else {
            const ip = formatIpv4(model.hosts[one.which]!);
            if (one.do === 'ask') expect(await claim(id, ip)).toBe(model.claim(ip));
            else {
              await release(id, ip);
              model.taken.delete(parseIpv4(ip)!);
            }
          }
        }
        expect(await counterOf(id)).toBe(model.taken.size);
      }),
      { numRuns: 20 },
    );
  });

  test('by many at once gives each another, exactly as many as there are', async () => {
    const id = await network('10.9.0.0/28');
    const outcomes = await Promise.all(Array.from({ length: 20 }, () => claim(id)));
    const addresses = outcomes.filter((outcome) => outcome !== 'no_free_address');
    expect(new Set(addresses).size).toBe(13);
    expect(addresses).toHaveLength(13);
    expect(await counterOf(id)).toBe(13);
  });

  test('by many at once who give back as well leaves the counter true', async () => {
    const id = await network('10.9.0.0/28');
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for (let i = 0; i < 5; i++) {
          const ip = await claim(id);
          if (ip !== 'no_free_address') await release(id, ip);
        }
      }),
    );
    expect(await counterOf(id)).toBe(0);
    expect(await claim(id)).toBe('10.9.0.2');
  });

  test('ends with as many as a node can be told, and outside of where the network is by now', async () => {
    const id = await network('10.8.0.0/16');
    await sql`update network set address_used = ${MAX_LEASES} where id = ${id}`.execute(database.db.operator);
    expect(await claim(id)).toBe('no_free_address');
    await sql`update network set address_used = 0, subnet = '10.7.0.0/16' where id = ${id}`.execute(
      database.db.operator,
    );
    expect(await claim(id, '10.8.0.9')).toBe('conflict');
    expect(await claim(id, '10.7.0.9')).toBe('10.7.0.9');
  });

  test('a claim that is rolled back takes nothing', async () => {
    const id = await network('10.9.0.0/29');
    const work = database.db.tenantTransaction(TENANT, async (tx) => {
      await claimLease(tx, { tenantId: TENANT, networkId: id, mac: randomMac(), hostname: null, pointer: '/ip' });
      throw new Error('no');
    });
    await expect(work).rejects.toThrow('no');
    expect(await claim(id)).toBe('10.9.0.2');
    expect(await counterOf(id)).toBe(1);
  });
});
