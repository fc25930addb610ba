/**
 * An upgrade under load, from an earlier version to this one: servers of the earlier version work, migrations are applied, the
 * servers and a node's agent are replaced one by one, and not one request of those who work meanwhile fails.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, expect, it } from 'vitest';
import { type Answer, apiOf } from './harness/client.js';
import { earlierVersion, whyNoEarlier } from './harness/earlier-version.js';
import { runProgram } from './harness/grpc.js';
import { jobsOf, untilWhole } from './harness/invariants.js';
import { apiReplica, grpcReplica, nodeState, type Replica, simNode } from './harness/replica.js';
import { Stack, startStack } from './harness/stack.js';
import { newTally } from './harness/steady-client.js';
import { SteadyUser } from './harness/steady-user.js';
import { until } from './harness/until.js';

const USERS = 3;
const ends: (() => Promise<unknown>)[] = [];
afterAll(async () => {
  for (const end of ends.reverse()) await end();
}, 120_000);

/** All of it in the earlier version, with two replicas of each server and a node of their own beside. */
async function startEarlier(folder: string) {
  const data = join(process.env.RHYZOME_TEST_STACKS!, 'upgrade');
  const supervisor = await startStack(data, { driver: 'sim', tenants: ['acme'] }, folder);
  const stack = new Stack(data, supervisor);
  ends.push(() => stack.stop());
  const dist = join(folder, 'dist');
  const [apis, grpcs] = [
    await Promise.all(['api-a', 'api-b'].map((name) => apiReplica(stack, name))),
    await Promise.all(['grpc-a', 'grpc-b'].map((name) => grpcReplica(stack, name))),
  ];
  const node = await simNode(stack, 'node2', grpcs, true);
  ends.push(() => Promise.all([node, ...apis, ...grpcs].map((replica) => replica.end())));
  for (const replica of [...grpcs, ...apis, node]) await replica.start(dist);
  await node.logged('connected');
  return { stack, apis, grpcs, node };
}

/** A migration of a version to come, as far as those go: each table that requests and jobs read gets a column more. */
async function migrateOn(stack: Stack): Promise<void> {
  const { dbOwner } = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const client = new pg.Client({ connectionString: dbOwner });
  await client.connect();
  try {
    await client.query("set role rhyzome_owner; set lock_timeout = '60s'");
    for (const table of ['resource', 'job', 'job_step', 'network', 'instance', 'disk', 'lease', 'placement', 'node'])
      await client.query(`alter table ${table} add column of_a_version_to_come int`);
  } finally {
    await client.end();
  }
}

it('fails no request', async (context) => {
  const why = whyNoEarlier();
  if (why) return context.skip(why);
  const { stack, apis, grpcs, node } = await startEarlier(earlierVersion());
  const { token } = await apiOf(stack);
  let isOver = false;
  let leaving: Replica | undefined;
  const tally = newTally();
  const bases = () => apis.flatMap((replica) => (replica === leaving ? [] : [replica.base]));
  // The earlier version says so in the moment of a migration; this one prepares its statements anew and asks again by itself.
  let isEarlier = true;
  const isExcused = ({ body }: Answer) => isEarlier && /upgraded just now/.test(body?.detail ?? '');
  const users = Array.from({ length: USERS }, (_, n) => new SteadyUser(n, bases, token, tally, isExcused));
  const works = Promise.all(users.map((user) => user.run(() => isOver)));
  const goesOn = async (requests = 20) => {
    const before = tally.requests;
    await until('work goes on', () => tally.requests >= before + requests, 120_000);
  };
  await goesOn();

  const migrated = await runProgram('cli', ['--config', stack.dev.config, 'db', 'migrate'], 300_000);
  expect(migrated).toMatchObject({ status: 0, stdout: expect.stringContaining('Applied ') });
  await goesOn();

  for (const grpc of grpcs) {
    await grpc.end();
    await grpc.start();
    await goesOn();
  }
  for (const api of apis) {
    // The earlier version answers 503 while it ends: it is taken out of the rotation first.
    leaving = api;
    await until('nobody asks it', () => users.every(({ client }) => client.asking !== api.base), 60_000);
    await api.end();
    await api.start();
    leaving = undefined;
    await goesOn();
  }
  await node.end();
  await node.start();
  await node.logged('connected', 2);
  await goesOn();

  isEarlier = false;
  await migrateOn(stack);
  await goesOn();

  isOver = true;
  expect((await works).flat()).toEqual([]);
  expect(tally).toMatchObject({ failures: [], cut: [] });
  await untilWhole(stack, [
    { name: 'node1', stateDir: join(stack.data, 'agent') },
    { name: 'node2', stateDir: nodeState(stack, 'node2') },
  ]);
  console.info(
    `${tally.requests} requests, ${tally.again} of them again; ${(await jobsOf(stack, 'acme')).length} jobs; ${migrated.stdout.trim()}`,
  );
}, 900_000);
