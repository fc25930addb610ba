/**
 * Users of two tenants who change the same few things at once, on several replicas and nodes, while processes are killed, paused
 * and cut off and the database dies. Whatever comes of each request: in the end every one that was accepted has ended, and what
 * users see, what nodes have, what is taken of addresses, names, room and quotas, and what watchers saw are one.
 *
 * The choices follow from a seed, which is printed: `RHYZOME_CHAOS_SEED=… RHYZOME_CHAOS_MINUTES=120 npm test -- test/chaos`.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Cable } from './harness/cable.js';
import { Chance } from './harness/chance.js';
import { type Target, Troubles } from './harness/chaos-troubles.js';
import { ChaosUser, nothingTold, type Told } from './harness/chaos-users.js';
import { apiOf, type Client } from './harness/client.js';
import { clearFaults, injectFaults } from './harness/faults.js';
import { rhyzome } from './harness/grpc.js';
import { jobsOf, type SimNodeState, untilWhole } from './harness/invariants.js';
import { apiReplica, grpcReplica, nodeState, simNode } from './harness/replica.js';
import { type Stack, stackNamed } from './harness/stack.js';
import { newTally, SteadyClient } from './harness/steady-client.js';
import { until } from './harness/until.js';
import { Watcher } from './harness/watcher.js';

const seed = Number(process.env.RHYZOME_CHAOS_SEED ?? Date.now() % 1_000_000);
const minutes = Number(process.env.RHYZOME_CHAOS_MINUTES ?? 0.75);
const tenants = ['acme', 'globex'];
const USERS_OF_TENANT = 3;

let stack: Stack;
let nodes: SimNodeState[];
let targets: Target[];
let bases: string[];
const cables: Cable[] = [];

beforeAll(async () => {
  stack = await stackNamed('chaos', { driver: 'sim', tenants });
  const database = new URL(stack.dev.database);
  const withCable = async (make: typeof apiReplica, name: string): Promise<Target> => {
    const cable = await Cable.lay(database.hostname, Number(database.port));
    cables.push(cable);
    return { replica: await make(stack, name, { databaseAt: cable.address }), cable };
  };
  const api = await withCable(apiReplica, 'api-b');
  const grpcs = [await withCable(grpcReplica, 'grpc-b'), await withCable(grpcReplica, 'grpc-c')];
  const node = await simNode(
    stack,
    'node2',
    grpcs.map(({ replica }) => replica),
  );
  targets = [api, ...grpcs, { replica: node }];
  bases = [stack.dev.api, api.replica.base];
  nodes = [
    { name: 'node1', stateDir: join(stack.data, 'agent') },
    { name: 'node2', stateDir: nodeState(stack, 'node2') },
  ];
  for (const { replica } of targets) await replica.start();
  await node.logged('connected');
  await rhyzome(stack, 'quota', 'set', 'acme', 'instances=4', 'addresses=6', 'diskGiB=8');
}, 300_000);

afterAll(async () => {
  await Promise.all((targets ?? []).map(({ replica }) => replica.end()));
  await Promise.all(cables.map((cable) => cable.remove()));
}, 120_000);

const items = async (api: Client, path: string): Promise<any[]> => (await api.get(path)).body.items;

/** Those that may fail, wait or come late on the nodes. */
function injectTroubles(): void {
  for (const node of nodes) {
    injectFaults(node, [
      { kind: 'instance', operation: 'apply', match: 'two', code: 'no_luck', permanent: true },
      { kind: 'instance', operation: 'apply', match: 't*', times: 5, code: 'not_now' },
      { kind: 'instance', operation: 'remove', times: 5, code: 'not_now' },
      { kind: 'instance', operation: 'apply', match: 'four', delayMs: 300 },
      { kind: 'instance', operation: 'operate', match: 'five', delayMs: 200 },
      { kind: 'network', operation: 'remove', times: 3, code: 'not_now' },
      { kind: 'instance', operation: 'shutdown', match: 'six', times: 3 },
    ]);
  }
}

/** Everything runs and answers again, and nodes are sound. */
async function recover(): Promise<void> {
  for (const node of nodes) clearFaults(node);
  const servers = targets.map(({ replica }) => replica);
  for (const replica of servers) if (!replica.isRunning) replica.launch();
  await Promise.all(servers.map((replica) => replica.ready()));
  const answers = async (base: string) => {
    const { status } = await fetch(`${base}/v1/openapi.json`).catch(() => ({ status: 0 }));
    return status === 200;
  };
  for (const base of bases) await until(`${base} answers`, () => answers(base), 120_000);
}

/** What was accepted is a job that there is once, and that has ended. */
async function faultsOfPromises(tenant: string, { accepted }: Told): Promise<string[]> {
  const jobs = await jobsOf(stack, tenant);
  const known = new Map(jobs.map((job) => [job.id, job]));
  const lost = [...accepted].filter(([, job]) => known.get(job)?.finished_at == null);
  const doubled = Map.groupBy(
    jobs.filter(({ request_id: id }) => id?.startsWith('chaos-')),
    (job) => `${job.request_id} ${job.resource_id} ${job.action}`,
  );
  return [
    ...lost.map(([request, job]) => `${request} was accepted as job ${job}, which has not ended or is not there`),
    ...[...doubled].flatMap(([what, of]) => (of.length > 1 ? [`${what}: done ${of.length} times`] : [])),
  ];
}

it(
  `stays whole, whatever dies (seed ${seed}, ${minutes} minutes)`,
  async () => {
    console.info(`RHYZOME_CHAOS_SEED=${seed} RHYZOME_CHAOS_MINUTES=${minutes}`);
    const chance = new Chance(seed);
    const end = Date.now() + minutes * 60_000;
    const isOver = () => Date.now() > end;
    const apis = new Map(await Promise.all(tenants.map(async (name) => [name, await apiOf(stack, name)] as const)));
    const watchers = await Promise.all(tenants.map((name) => Watcher.start(() => bases, apis.get(name)!)));
    injectTroubles();
    const told = new Map(tenants.map((name) => [name, nothingTold()]));
    const tally = newTally();
    const users = tenants.flatMap((tenant, t) =>
      Array.from({ length: USERS_OF_TENANT }, (_, n) => {
        const client = new SteadyClient(() => bases, apis.get(tenant)!.token, tally, n);
        const own = chance.of(100 * t + n);
        return new ChaosUser(`chaos-${seed}-${tenant}-${n}`, client, own, told.get(tenant)!).run(isOver);
      }),
    );
    const troubles = new Troubles(stack, targets, chance.of(1_000));
    try {
      await Promise.all([troubles.run(isOver), ...users]);
      await recover();
      await untilWhole(stack, nodes, 180_000);
      for (const [tenant, one] of told) {
        expect(one.wrong).toEqual([]);
        expect(await faultsOfPromises(tenant, one)).toEqual([]);
        expect(one.accepted.size).toBeGreaterThan(5);
      }
      for (const [n, tenant] of tenants.entries()) await allIsSeen(tenant, watchers[n]!);
      for (const api of apis.values()) await clear(api);
      await untilWhole(stack, nodes);
      await Promise.all(watchers.map((watcher) => watcher.stop()));
      for (const watcher of watchers) expect(watcher.faults).toEqual([]);
    } catch (error) {
      const logs = targets.map(({ replica }) => `${replica.name}:\n${replica.log.slice(-3_000)}`);
      console.error([`seed ${seed}`, ...troubles.log, ...logs].join('\n'));
      throw error;
    }
    const all = [...told.values()];
    console.info(
      `${tally.requests} requests, ${tally.cut.length} of them cut; ${all.flatMap(({ accepted }) => [...accepted]).length} ` +
        `changes accepted; ${troubles.log.length} troubles; ${watchers.flatMap(({ seen }) => seen).length} events seen ` +
        `over ${watchers.reduce((sum, { opened }) => sum + opened, 0)} streams`,
    );
  },
  900_000 + minutes * 120_000,
);

/** The watcher has seen the end of each job that its users asked for. */
async function allIsSeen(tenant: string, watcher: Watcher): Promise<void> {
  const jobs = await jobsOf(stack, tenant);
  const ended = jobs.flatMap(({ id, request_id: by }) => (by?.startsWith('chaos-') ? [id] : []));
  let missing: string[] = [];
  const isSeen = () => {
    const seen = new Set(watcher.seen.flatMap(({ data }) => (data.job?.finishedAt ? [data.job.id] : [])));
    missing = ended.filter((id) => !seen.has(id));
    return missing.length === 0;
  };
  await until(`the ends of ${tenant}’s jobs are seen`, isSeen, 60_000).catch((error: Error) => {
    throw new Error(`${error.message}: ${missing.length} of ${ended.length} are not, ${missing[0]}; ${watcher}`);
  });
}

/** Whatever state it is in, it can be removed; and then nothing is left. */
async function clear(api: Client): Promise<void> {
  for (const plural of ['instances', 'disks', 'networks']) {
    const all = await items(api, `/v1/${plural}?pageSize=100`);
    await Promise.all(all.map(({ id }) => api.remove(plural, id)));
    expect(await items(api, `/v1/${plural}`)).toEqual([]);
  }
}
