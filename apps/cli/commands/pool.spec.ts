/** `rhyzome pool` on a real database, with addresses as tenants take them. */
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  await rhyzome.ok('tenant', 'create', 'acme');
});
afterAll(() => rhyzome?.remove());

/** As the pipeline does in a request's transaction. */
async function take(pool: string): Promise<string> {
  const id = newId();
  return rhyzome.db.tenantTransaction('acme', async (tx) => {
    await sql`insert into resource (tenant_id, id, kind, name, state, created_by)
      values ('acme', ${id}, 'publicaddress', ${`a-${id.slice(-12)}`}, 'ready', 't')`.execute(tx);
    const made = await sql<{ ip: string }>`insert into publicaddress (tenant_id, id, pool, ip)
      values ('acme', ${id}, ${pool}, claim_public_address(${pool})) returning host(ip) as ip`.execute(tx);
    return made.rows[0]!.ip;
  });
}

describe('rhyzome pool', () => {
  test('gives addresses, says how many are taken, and takes away only what is not in use', async () => {
    const made = await rhyzome.json(
      'pool',
      'create',
      'edge',
      '192.0.2.8-192.0.2.9,203.0.113.0/30',
      '--description',
      'x',
    );
    expect(made).toMatchObject({
      name: 'edge',
      description: 'x',
      ranges: ['192.0.2.8-192.0.2.9', '203.0.113.0-203.0.113.3'],
      addresses: { total: 6, used: 0 },
    });
    expect([await take('edge'), await take('edge'), await take('edge')]).toEqual([
      '192.0.2.8',
      '192.0.2.9',
      '203.0.113.0',
    ]);
    expect(await rhyzome.json('pool', 'list')).toMatchObject([{ name: 'edge', addresses: { total: 6, used: 3 } }]);
    expect(await rhyzome.ok('pool', 'list')).toMatch(/^edge +3\/6 /m);
    const refused = await rhyzome.run('pool', 'delete', 'edge');
    expect(refused).toMatchObject({
      status: 1,
      err: expect.stringContaining('3 addresses of the pool “edge” are in use'),
    });
    await sql`delete from publicaddress where tenant_id = 'acme'`.execute(rhyzome.db.operator);
    await rhyzome.ok('pool', 'delete', 'edge');
    expect(await rhyzome.json('pool', 'list')).toEqual([]);
    expect(await rhyzome.audit('system')).toMatchObject([
      { action: 'pool.create', resource_name: 'edge', details: { ranges: made.ranges } },
      { action: 'pool.delete', resource_name: 'edge' },
    ]);
  });

  test('refuses a name or addresses that another pool has', async () => {
    await rhyzome.ok('pool', 'create', 'one', '198.51.100.0/24');
    const taken = await rhyzome.run('pool', 'create', 'one', '203.0.113.0/24');
    expect(taken).toMatchObject({ status: 1, err: expect.stringContaining('There is a pool “one” already') });
    const overlap = await rhyzome.run('pool', 'create', 'two', '203.0.113.0/24,198.51.100.255-198.51.101.3');
    expect(overlap).toMatchObject({ status: 1, err: expect.stringContaining('Another pool has addresses of') });
    expect(await rhyzome.json('pool', 'list')).toHaveLength(1);
    expect(await rhyzome.run('pool', 'delete', 'two')).toMatchObject({ status: 3 });
  });

  test.each([
    ['203.0.113.1/24', 'without host bits'],
    ['203.0.113.9-203.0.113.1', 'FIRST-LAST'],
    ['fd00::/64', 'IPv4'],
    ['203.0.113.0/29,203.0.113.4', 'FIRST-LAST'],
    ['203.0.113.0/29,203.0.113.4/32', 'name 203.0.113.4 twice'],
    ['100.64.0.0/24', 'reserved'],
    ['99.0.0.0-101.0.0.0', 'reserved'],
    ['198.19.0.0/24', 'reserved'],
    ['239.0.0.0/30', 'reserved'],
    ['8.0.0.0/11', 'more than 1048576'],
  ])('refuses %s', async (ranges, why) => {
    expect(await rhyzome.run('pool', 'create', 'wrong', ranges)).toMatchObject({
      status: 2,
      err: expect.stringContaining(why),
    });
  });
});
