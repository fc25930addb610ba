/** `rhyzome network` on a real database, with nodes and placements as rhyzome-grpc writes them. */
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import { TestInstallation } from '../test-harness.js';

let rhyzome: TestInstallation;
const nodes: Record<string, string> = {};
const lan = newId();

beforeAll(async () => {
  rhyzome = await TestInstallation.make({ testCluster, createDatabase, ensureLogin });
  await rhyzome.ok('tenant', 'create', 'acme');
  for (const [i, name] of ['n1', 'n2', 'n3', 'apart'].entries()) nodes[name] = await register(name, i + 1);
  await sql`update node set underlay = null, underlay_port = null, underlay_mtu = null where name = 'apart'`.execute(
    rhyzome.db.operator,
  );
  await network('lan', lan);
  for (const name of ['n1', 'n2', 'apart']) await stand(name);
  await sql`update network set router_node_id = ${nodes.n1!} where id = ${lan}`.execute(rhyzome.db.operator);
});
afterAll(() => rhyzome?.remove());

async function register(name: string, n: number): Promise<string> {
  const id = newId();
  const room = { vcpus: 8, memory_mib: 16_384, disk_gib: 100 };
  const underlay = { underlay: `192.0.2.${n}`, underlay_port: 4789, underlay_mtu: 1450 };
  await rhyzome.db.operator
    .insertInto('node')
    .values({ id, name, driver: 'sim', agent_version: '1', kinds: ['network'], ...underlay, ...room })
    .execute();
  await rhyzome.db.operator
    .insertInto('node_session')
    .values({ node_id: id, session: 1, replica: 'grpc1:7443', heartbeat_at: new Date() })
    .execute();
  return id;
}

async function network(name: string, id: string): Promise<void> {
  await rhyzome.db.operator
    .insertInto('resource')
    .values({ tenant_id: 'acme', id, kind: 'network', name, state: 'ready', created_by: 'x' })
    .execute();
  const addresses = { gateway: '10.7.0.1', address_hint: '10.7.0.2', address_total: 253 };
  await rhyzome.db.operator
    .insertInto('network')
    .values({ tenant_id: 'acme', id, subnet: '10.7.0.0/24', mtu: 1450, ...addresses })
    .execute();
}

/** As of a node that has made what it was told. */
async function stand(node: string): Promise<void> {
  await sql`insert into placement (tenant_id, resource_id, node_id, kind, present, generation, spec, phase, observed_revision)
    values ('acme', ${lan}, ${nodes[node]!}, 'network', true, 1, '{}', 'ready', 1)`.execute(rhyzome.db.operator);
}

const told = async (node: string) =>
  (
    await sql<{ router: number | null }>`select spec #> '{overlay,router}' as router from placement
      where resource_id = ${lan} and node_id = ${nodes[node]!}`.execute(rhyzome.db.operator)
  ).rows[0]!.router;

describe('rhyzome network', () => {
  it('shows where a network is', async () => {
    expect(await rhyzome.json('network', 'show', 'acme/lan')).toMatchObject({
      id: lan,
      tenant: 'acme',
      nodes: [
        { name: 'n1', state: 'up', hasRouter: true, spans: true },
        { name: 'n2', state: 'up', hasRouter: false, spans: true },
        { name: 'apart', state: 'up', hasRouter: false, spans: false },
      ],
    });
    expect(await rhyzome.ok('network', 'show', `acme/${lan}`)).toMatch(
      /n1 +up +router .*\nn2 +up +reaches it .*\napart +up +alone/,
    );
    expect((await rhyzome.run('network', 'show', 'acme/nothing')).status).toBe(3);
    expect((await rhyzome.run('network', 'show', 'lan')).status).toBe(2);
  });

  it('moves a router, once, and leaves a row of audit with its tenant', async () => {
    const move = ['network', 'move-router', 'acme/lan', '--to', 'n2', '--no-wait'];
    expect(await rhyzome.ok(...move)).toBe('Ordered the router of acme/lan from n1 to n2.\n');
    expect([await told('n1'), await told('n2')]).toEqual([0, null]);
    expect(await rhyzome.ok(...move)).toBe('The router of acme/lan is on n2 already.\n');
    const audit = await rhyzome.db.operator
      .selectFrom('audit')
      .select(['tenant_id', 'resource_name', 'details'])
      .where('action', '=', 'network.move-router')
      .execute();
    expect(audit).toEqual([{ tenant_id: 'acme', resource_name: 'lan', details: { from: 'n1', to: 'n2' } }]);
  });

  it('waits until the nodes have it so', async () => {
    const moving = rhyzome.ok('network', 'move-router', 'acme/lan', '--to', 'n1');
    const isTold = async () => (await told('n1')) === null;
    await expect.poll(isTold, { timeout: 30_000 }).toBe(true);
    await sql`update placement set observed_revision = revision where resource_id = ${lan}`.execute(
      rhyzome.db.operator,
    );
    expect(await moving).toBe('Moved the router of acme/lan from n2 to n1.\n');
  }, 60_000);

  it.each([
    ['n3', 'has no machine of network lan, which is on n1, n2, apart'],
    ['apart', 'has no underlay that carries network lan'],
  ])('refuses node %s', async (node, why) => {
    const { status, err } = await rhyzome.run('network', 'move-router', 'acme/lan', '--to', node);
    expect(err).toContain(why);
    expect(status).toBe(1);
    expect(await told('n1')).toBeNull();
  });

  it('refuses nodes that are away, and to make a second router beside one that is', async () => {
    const silence = (node: string, seconds: number) =>
      sql`update node_session set heartbeat_at = now() - make_interval(secs => ${seconds}) where node_id = ${nodes[node]!}`.execute(
        rhyzome.db.operator,
      );
    const refused = async () => (await rhyzome.run('network', 'move-router', 'acme/lan', '--to', 'n2')).err;
    await silence('n2', 300);
    await sql`update node set last_seen_at = now() - interval '300 s' where id = ${nodes.n2!}`.execute(
      rhyzome.db.operator,
    );
    expect(await refused()).toContain('Node n2 is unreachable, and gets no routers.');
    await silence('n2', 0);
    await silence('n1', 300);
    await sql`update node set last_seen_at = now() - interval '300 s' where id = ${nodes.n1!}`.execute(
      rhyzome.db.operator,
    );
    expect(await refused()).toContain('there would be two. Fence it');
    expect((await rhyzome.run('network', 'move-router', 'acme/lan', '--to', 'nowhere')).status).toBe(3);
  });
});
