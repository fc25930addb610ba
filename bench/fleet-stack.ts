/**
 * What the benchmark of a fleet runs on: a PostgreSQL of its own, one rhyzome-api, one rhyzome-grpc that can be started anew, and
 * agents with certificates of their own, in a few processes. The machines that they begin with are rows from the start.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { constants, setPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createPool } from '#libs/db';
import { startPostgres } from '#libs/devdb';
import { startIssuer } from '#libs/devissuer';
import { initPki, issueCertificate } from '#libs/pki';
import type { FleetAgentsOrder } from './fleet-agents.js';
import { end, fetchToken, freePort, until } from './stack.js';

const dist = fileURLToPath(new URL('..', import.meta.url));
const AGENTS_IN_PROCESS = 250;

type Pool = ReturnType<typeof createPool>;

export interface FleetOptions {
  agents: number;
  machinesOfAgent: number;
  /** The machines run already, as after a restart of everything; else they are to be made first. */
  areMade: boolean;
}

export interface FleetStack {
  api: string;
  token: string;
  db: Pool;
  postgresPid: number;
  /** That PostgreSQL has committed so far, of whomever. */
  transactions(): Promise<number>;
  grpcPid: number;
  apiPid: number;
  /** Of the processes that agents run in. */
  agentPids: readonly number[];
  startAgents(): Promise<void>;
  /** Kills rhyzome-grpc and starts it again; resolves when it serves. */
  restartGrpc(): Promise<void>;
  stop(): Promise<void>;
}

export async function startFleetStack(options: FleetOptions): Promise<FleetStack> {
  const dir = mkdtempSync(join(tmpdir(), 'rhyzome-fleet-'));
  const postgres = await startPostgres({ dir: join(dir, 'postgres') });
  const issuer = await startIssuer({ port: 0, tenants: ['acme'], dataDir: join(dir, 'issuer') });
  const ports = {
    api: await freePort(),
    apiMonitoring: await freePort(),
    grpc: await freePort(),
    monitoring: await freePort(),
  };
  const db = createPool({ connectionString: postgres.superuserUrl('postgres') }, null, { max: 2 });
  const { config, ca, names } = await settle(dir, postgres.superuserUrl('postgres'), ports, options);
  rhyzome(config, 'db', 'migrate');
  rhyzome(config, 'tenant', 'create', 'acme', '--display-name', 'Acme', '--issuer', issuer.tenants.acme!.issuer);
  rhyzome(config, 'image', 'import', 'tiny', '--placeholder');
  await seed(db, names, options.machinesOfAgent);
  if (options.areMade) await makeAll(db, join(dir, 'state'));
  const run = (program: string) => child([join(dist, 'apps', program, 'main.js'), '--config', config], 'ignore');
  const api = run('api');
  let grpc = run('grpc');
  const isReady = () => until(`http://127.0.0.1:${ports.monitoring}/readyz`);
  await Promise.all([until(`http://127.0.0.1:${ports.apiMonitoring}/readyz`), isReady()]);
  const fleets: ChildProcess[] = [];
  return {
    api: `http://127.0.0.1:${ports.api}/v1`,
    token: await fetchToken(issuer.tenants.acme!),
    db,
    postgresPid: postgres.pid,
    get grpcPid() {
      return grpc.pid!;
    },
    transactions: async () => {
      const query = 'select xact_commit::int as count from pg_stat_database where datname = current_database()';
      return (await db.query<{ count: number }>(query)).rows[0]!.count;
    },
    apiPid: api.pid!,
    get agentPids() {
      return fleets.map(({ pid }) => pid!);
    },
    startAgents: async () => {
      for (let at = 0; at < names.length; at += AGENTS_IN_PROCESS) {
        const order: FleetAgentsOrder = {
          controller: `127.0.0.1:${ports.grpc}`,
          ca,
          certificates: join(dir, 'nodes'),
          state: join(dir, 'state'),
          names: names.slice(at, at + AGENTS_IN_PROCESS),
        };
        fleets.push(await runFleet(order));
      }
    },
    restartGrpc: async () => {
      grpc.kill('SIGKILL');
      await once(grpc, 'exit');
      grpc = run('grpc');
      await isReady();
    },
    stop: async () => {
      await Promise.all([...fleets, api, grpc].map(end));
      await issuer.stop();
      await db.end();
      await postgres.stop();
      rmSync(dir, { recursive: true, maxRetries: 5 });
    },
  };
}

/** They stand for as many other machines: the servers, whose work is measured, go before them. */
async function runFleet(order: FleetAgentsOrder): Promise<ChildProcess> {
  const fleet = child([join(dist, 'bench/fleet-agents.js'), JSON.stringify(order)], 'pipe');
  setPriority(fleet.pid!, constants.priority.PRIORITY_BELOW_NORMAL);
  await Promise.race([
    once(fleet.stdout!, 'data'),
    once(fleet, 'exit').then(() => Promise.reject(new Error('the agents did not start'))),
  ]);
  return fleet;
}

/** A process that ends when this one is gone, however that ended. */
function child(argv: string[], stdout: 'ignore' | 'pipe'): ChildProcess {
  const endWithParent = join(dist, 'apps/dev/end-with-parent.js');
  return spawn(process.execPath, ['--import', endWithParent, ...argv], { stdio: ['ignore', stdout, 'inherit', 'ipc'] });
}

function rhyzome(config: string, ...args: string[]): void {
  const argv = [join(dist, 'apps/cli/main.js'), '--config', config, ...args];
  const { status, stderr } = spawnSync(process.execPath, argv, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`rhyzome ${args.join(' ')}: ${stderr}`);
}

/** Certificates and settings. */
async function settle(
  dir: string,
  db: string,
  ports: { api: number; apiMonitoring: number; grpc: number; monitoring: number },
  { agents }: FleetOptions,
): Promise<{ config: string; ca: string; names: string[] }> {
  const pki = join(dir, 'pki');
  mkdirSync(pki, { mode: 0o700 });
  for (const folder of ['nodes', 'state', 'images']) mkdirSync(join(dir, folder));
  await initPki({ dir: pki });
  const { ca, cert, key } = await issueCertificate({ dir: pki, type: 'server', name: 'bench', dns: ['localhost'] });
  const names = Array.from({ length: agents }, (_, n) => `node-${n}`);
  for (const name of names) await issueCertificate({ dir: pki, out: join(dir, 'nodes'), type: 'node', name });
  const local = (port: number) => `127.0.0.1:${port}`;
  // What is measured is the servers, not their limits.
  const rateLimit = { tenantPerSecond: 1e6, tenantBurst: 1e6, userPerSecond: 1e6, userBurst: 1e6 };
  const config = join(dir, 'rhyzome-api.json');
  const settings = {
    db,
    pki: { ca, cert, key },
    api: { listen: local(ports.api), monitoring: local(ports.apiMonitoring), rateLimit },
    grpc: { listen: [local(ports.grpc)], monitoring: local(ports.monitoring) },
    storage: { dir: join(dir, 'images') },
    log: { level: 'error' },
  };
  writeFileSync(config, JSON.stringify(settings), { mode: 0o600 });
  return { config, ca, names };
}

/** A network and its machines on each node, not made yet. */
async function seed(db: Pool, names: string[], machines: number): Promise<void> {
  const network = { subnet: '10.0.0.0/24', gateway: '10.0.0.1', gatewayMac: '02:00:00:00:00:01', mtu: 1450 };
  const parts = { subnet6: null, gateway6: null, dns: [], domain: null, leases: [], publicAddresses: [], forwards: [] };
  const networkSpec = { ...network, ...parts, firewall: [], wireguard: null };
  const guest = { hostname: 'bench', tags: {}, userData: null, sshKeys: [] };
  const machineSpec = { name: 'bench', vcpus: 1, memoryMiB: 64, disks: [], interfaces: [], powerState: 'running' };
  const instanceSpec = { ...machineSpec, restartPolicy: 'stay', guest };
  await db.query(
    `insert into node (id, name, driver, agent_version, kinds, vcpus, memory_mib, disk_gib)
     select gen_random_uuid(), name, 'sim', 'bench', '{network,disk,snapshot,instance}', 4096, 16777216, 1048576
     from unnest($1::text[]) as names (name)`,
    [names],
  );
  await db.query(
    `create temporary table seeded on commit preserve rows as
     select gen_random_uuid() as id, n.id as node_id, k as ordinal, case when k = 0 then 'network' else 'instance' end as kind,
       n.name || '-' || k as name from node n, generate_series(0, ${machines}) k;
     insert into resource (tenant_id, id, kind, name, state, created_by)
       select 'acme', id, kind, name, 'ready', 'bench' from seeded;
     insert into network (tenant_id, id, subnet, gateway, mtu, address_total, address_hint)
       select 'acme', id, '10.0.0.0/24', '10.0.0.1', 1450, 253, '10.0.0.2' from seeded where kind = 'network';
     insert into instance (tenant_id, id, vcpus, memory_mib, desired_power_state, restart_policy, node_id)
       select 'acme', id, 1, 64, 'running', 'stay', node_id from seeded where kind = 'instance';
     insert into reservation (tenant_id, resource_id, node_id, vcpus, memory_mib, disk_gib)
       select 'acme', id, node_id, 1, 64, 0 from seeded where kind = 'instance';
     insert into placement (tenant_id, resource_id, node_id, kind, generation, present, spec)
       select 'acme', id, node_id, kind, 1, true,
         case when kind = 'network' then '${JSON.stringify(networkSpec)}'::jsonb else '${JSON.stringify(instanceSpec)}'::jsonb end
       from seeded;
     drop table seeded; analyze`,
  );
}

/** As if the nodes had made everything already: in the rows, and on their simulated machines. */
async function makeAll(db: Pool, states: string): Promise<void> {
  await db.query(
    `update placement set observed_revision = revision, observed_generation = generation, phase = 'ready',
       status = case when kind = 'instance' then '{"powerState": "running"}'::jsonb end;
     analyze placement`,
  );
  const { rows } = await db.query<{ node: string; machines: [string, string, object][] }>(
    `select n.name as node, jsonb_agg(jsonb_build_array(p.kind, p.resource_id, p.spec)) as machines
     from placement p join node n on n.id = p.node_id group by n.name`,
  );
  for (const { node, machines } of rows) {
    const of = (wanted: string, more: object) =>
      machines.flatMap(([kind, id, spec]) =>
        kind === wanted ? [[id, { ref: { tenantId: 'acme', kind, id }, spec, ...more }]] : [],
      );
    const state = {
      networks: of('network', {}),
      instances: of('instance', { powerState: 'running', boots: 1, startedAt: Date.now() }),
    };
    mkdirSync(join(states, node));
    writeFileSync(join(states, node, 'sim-state.json'), JSON.stringify(state));
  }
}
