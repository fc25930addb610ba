/** IPv6 of a network: what a subnet may be, which address a machine has, and what no change takes away. */
import 'reflect-metadata';
import fc from 'fast-check';
import ipaddr from 'ipaddr.js';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import type { Caller } from '#libs/resources';
import { type Platform, startPlatform } from '#libs/testing';
import { formatCidr6, parseCidr6, subnet6Findings } from './cidr6.js';
import { network } from './index.js';
import { claimLease, randomMac } from './leases.js';

let platform: Platform;
let caller: Caller;
beforeAll(async () => {
  platform = await startPlatform({ kinds: [network] });
  caller = await platform.tenant();
});
afterAll(() => platform?.close());

async function make(body: object): Promise<string> {
  const change = await platform.pipeline.create(caller, network, { name: `n-${newId().slice(-12)}`, ...body });
  await platform.done(caller, change);
  return change.body.id;
}

const change = async (id: string, patch: object) =>
  platform.done(caller, await platform.pipeline.update(caller, network, id, patch));

const lease = (networkId: string, mac = randomMac(), ip?: string) =>
  platform.db.tenantTransaction(caller.actor.tenantId, (tx) =>
    claimLease(tx, { tenantId: caller.actor.tenantId, networkId, mac, ip, hostname: null, pointer: '/ip' }),
  );

/** RFC 4291 appendix A, by hand. */
function eui64(prefix: string, mac: string): string {
  const [a, b, c, d, e, f] = mac.split(':').map((part) => Number.parseInt(part, 16)) as number[];
  const head = ipaddr.IPv6.parse(prefix).toByteArray().slice(0, 8);
  return new ipaddr.IPv6([...head, a! ^ 2, b!, c!, 0xff, 0xfe, d!, e!, f!]).toRFC5952String();
}

const normal = (address: string | null) => address && ipaddr.IPv6.parse(address).toRFC5952String();

describe('the text of an IPv6 subnet', () => {
  test('is parsed as ipaddr.js does, and formatted back', () => {
    const bytes = fc.array(fc.nat(255), { minLength: 16, maxLength: 16 });
    fc.assert(
      fc.property(bytes, fc.nat(128), (address, prefix) => {
        const text = `${new ipaddr.IPv6(address).toNormalizedString()}/${prefix}`;
        const parsed = parseCidr6(text)!;
        const base = ipaddr.IPv6.networkAddressFromCIDR(text).toRFC5952String();
        expect(formatCidr6(parsed)).toBe(`${base}/${prefix}`);
        expect(parsed.hostBits).toBe(base !== new ipaddr.IPv6(address).toRFC5952String());
      }),
    );
  });

  test.each([
    ['fd00::/64', []],
    ['2001:db8:1:2::/120', []],
    ['fd00::1/64', ['invalid_value']],
    ['fd00::/63', ['out_of_range']],
    ['fd00::/121', ['out_of_range']],
    ['fe80::/64', ['invalid_value']],
    ['ff02::/64', ['invalid_value']],
    ['::/64', ['invalid_value']],
    ['fd00::%eth0/64', ['invalid_format']],
    ['::ffff:10.0.0.0/120', ['invalid_format']],
    ['10.0.0.0/24', ['invalid_format']],
    ['fd00::/64/64', ['invalid_format']],
    ['fd00::/064', ['invalid_format']],
  ])('%s', (text, codes) => {
    expect(subnet6Findings(text).map(({ code }) => code)).toEqual(codes);
  });
});

describe('the address of a machine', () => {
  test('in a /64 is the one that it makes of its MAC, whichever that is', async () => {
    const id = await make({ subnet: '10.1.0.0/24', subnet6: 'fd12:3456:789a::/64' });
    for (const mac of ['52:54:00:12:34:56', '00:16:3e:00:00:01', '02:00:00:00:00:00', randomMac(), randomMac()]) {
      expect(normal((await lease(id, mac)).ip6)).toBe(eui64('fd12:3456:789a::', mac));
    }
  });

  test('in a longer prefix has the number of its IPv4 address, and so has the router', async () => {
    const id = await make({ subnet: '10.1.0.0/24', gateway: '10.1.0.254', subnet6: '2001:db8::ab00/120' });
    expect((await platform.reader.get(caller, network, id)).body.gateway6).toBe('2001:db8::abfe');
    expect((await lease(id)).ip6).toBe('2001:db8::ab01');
    expect((await lease(id, randomMac(), '10.1.0.77')).ip6).toBe('2001:db8::ab4d');
  });
});

describe('a change', () => {
  test('gives IPv6 to what is there already, and cannot take it or another away', async () => {
    const id = await make({ subnet: '10.1.0.0/24' });
    const first = await lease(id);
    expect(first.ip6).toBeNull();
    await change(id, { subnet6: 'fd00:1::/64' });
    const body = (await platform.reader.get(caller, network, id)).body;
    expect(body).toMatchObject({ subnet6: 'fd00:1::/64', gateway6: 'fd00:1::1' });
    const known = await sql<{ ip6: string }>`select host(ip6) as ip6 from lease where id = ${first.id}`.execute(
      platform.db.operator,
    );
    expect(normal(known.rows[0]!.ip6)).toBe(eui64('fd00:1::', first.mac));
    const refused = { code: 'in_use', details: { errors: [{ pointer: '/subnet6' }] } };
    await expect(change(id, { subnet6: null })).rejects.toMatchObject(refused);
    await expect(change(id, { subnet6: 'fd00:2::/64' })).rejects.toMatchObject(refused);
    await sql`delete from lease where id = ${first.id}`.execute(platform.db.operator);
    await change(id, { subnet6: 'fd00:2::/64' });
    await change(id, { subnet6: null });
    expect((await platform.reader.get(caller, network, id)).body).toMatchObject({ subnet6: null, gateway6: null });
  });

  test('of the IPv4 subnet keeps the numbers that IPv6 addresses follow', async () => {
    const id = await make({ subnet: '10.1.1.0/24', subnet6: 'fd00::/112' });
    await lease(id);
    await expect(change(id, { subnet: '10.1.0.0/23' })).rejects.toMatchObject({
      code: 'in_use',
      details: { errors: [{ pointer: '/subnet' }] },
    });
    const even = await make({ subnet: '10.1.0.0/24', subnet6: 'fd00::/112' });
    await lease(even);
    await change(even, { subnet: '10.1.0.0/23' });
  });

  test('finds machines that come at the same moment, or is found by them', async () => {
    const id = await make({ subnet: '10.1.0.0/24' });
    const changing = change(id, { subnet6: 'fd00:3::/64' });
    await Promise.all([changing, ...Array.from({ length: 8 }, () => lease(id).catch(() => undefined))]);
    const left = await sql`select 1 from lease where network_id = ${id} and ip6 is null`.execute(platform.db.operator);
    expect(left.rows).toEqual([]);
  });

  test.each([
    [{ subnet: '10.0.0.0/16', subnet6: 'fd00::/120' }, '/subnet6'],
    [{ subnet: '10.0.0.0/24', subnet6: 'fd00::/64', mtu: 1279 }, '/mtu'],
    [{ subnet: '10.0.0.0/24', gateway6: 'fd00::1' }, '/gateway6'],
  ])('that cannot be is refused: %j', async (body, pointer) => {
    await expect(make(body)).rejects.toMatchObject({ code: 'invalid', details: { errors: [{ pointer }] } });
  });
});
