/** `rhyzome network` on a real database, with nodes and placements as rhyzome-grpc writes them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { newId } from '#libs/core';
import { createDatabase, ensureLogin, testCluster } from '#libs/devdb';
import type { NetworkSpec } from '#libs/drivers/contract';
import { composeSpecs } from '#libs/kinds/network';
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

/** What nodes say of what they are told; n2 that it cannot. */
const makeAll = sql`update placement set phase = 'ready', failure = null, observed_revision = revision`;
const cannot = { code: 'network_failed', message: 'There is no wg.' };
const failAtN2 = () => sql`update placement set observed_revision = revision,
  phase = case when node_id = ${nodes.n2!} then 'failed' else 'ready' end,
  failure = case when node_id = ${nodes.n2!} then ${JSON.stringify(cannot)}::jsonb end`;

/** Plays the nodes until the result is called; `look` after each of their words. */
function obey(words: typeof makeAll, look: () => Promise<unknown>): () => Promise<void> {
  const stopped = new AbortController();
  const work = async () => {
    for (; !stopped.signal.aborted; await sleep(20)) {
      await words.execute(rhyzome.db.operator);
      await look();
    }
  };
  const working = work();
  return () => {
    stopped.abort();
    return working;
  };
}

/** Seconds since a node was heard. */
async function heard(node: string, seconds: number): Promise<void> {
  await sql`update node_session set heartbeat_at = now() - make_interval(secs => ${seconds}) where node_id = ${nodes[node]!}`.execute(
    rhyzome.db.operator,
  );
  await sql`update node set last_seen_at = now() - make_interval(secs => ${seconds}) where id = ${nodes[node]!}`.execute(
    rhyzome.db.operator,
  );
}

/** Which of the others has the router, as a node is told now; null: it has it itself. */
async function told(node: string): Promise<number | null> {
  const specs = await composeSpecs(rhyzome.db, 'acme', lan, [nodes[node]!]);
  return (specs.get(nodes[node]!) as NetworkSpec).overlay!.router;
}

/** Of what n1 and n2 were told last. */
async function revisions(): Promise<number[]> {
  const { rows } = await sql<{ revision: number }>`
    select p.revision from placement p join node n on n.id = p.node_id
    where p.resource_id = ${lan} and n.name in ('n1', 'n2') order by n.name`.execute(rhyzome.db.operator);
  return rows.map(({ revision }) => revision);
}

describe('rhyzome network', () => {
  beforeEach(async () => {
    for (const node of Object.keys(nodes)) await heard(node, 0);
  });

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
    expect(await rhyzome.ok(...move)).toBe('Node n2 has the router of acme/lan already.\n');
    const audit = await rhyzome.db.operator
      .selectFrom('audit')
      .select(['tenant_id', 'resource_name', 'details'])
      .where('action', '=', 'network.move-router')
      .execute();
    expect(audit).toEqual([{ tenant_id: 'acme', resource_name: 'lan', details: { from: 'n1', to: 'n2' } }]);
  });

  it('lets the new node make it first, then tells the others, and waits for both', async () => {
    const [old1, old2] = (await revisions()) as [number, number];
    const seen: boolean[][] = [];
    const stop = obey(makeAll, async () => {
      const [new1, new2] = (await revisions()) as [number, number];
      seen.push([new1 > old1, new2 > old2]);
    });
    expect(await rhyzome.ok('network', 'move-router', 'acme/lan', '--to', 'n1')).toBe(
      'Moved the router of acme/lan from n2 to n1.\n',
    );
    await stop();
    // Both have it for a while: the one that had it is told last.
    expect(seen).toContainEqual([true, false]);
    expect(seen).not.toContainEqual([false, true]);
    expect(seen.at(-1)).toEqual([true, true]);
    expect([await told('n1'), await told('n2')]).toEqual([null, 0]);
  }, 60_000);

  it('leaves it where it is when the new node cannot make it', async () => {
    const stop = obey(failAtN2(), async () => undefined);
    const { status, err } = await rhyzome.run('network', 'move-router', 'acme/lan', '--to', 'n2');
    await stop();
    expect(err).toContain('Node n2 does not make the router of lan: There is no wg.');
    expect(status).toBe(1);
    expect([await told('n1'), await told('n2')]).toEqual([null, 0]);
  }, 60_000);

  it.each([
    ['n3', 'Node n3 has no machine of network lan, which is on n1, n2, apart'],
    ['apart', 'Node apart has no underlay that carries network lan'],
  ])('refuses node %s', async (node, why) => {
    const { status, err } = await rhyzome.run('network', 'move-router', 'acme/lan', '--to', node);
    expect(err).toContain(why);
    expect(status).toBe(1);
    expect(await told('n1')).toBeNull();
  });

  it('refuses nodes that are away, and to make a second router beside one that is', async () => {
    const refused = async () => (await rhyzome.run('network', 'move-router', 'acme/lan', '--to', 'n2')).err;
    await heard('n2', 300);
    expect(await refused()).toContain('Node n2 is unreachable, and gets no routers.');
    await heard('n2', 0);
    await heard('n1', 300);
    expect(await refused()).toContain('there would be two. Fence it');
    expect((await rhyzome.run('network', 'move-router', 'acme/lan', '--to', 'nowhere')).status).toBe(3);
  });
});
