/**
 * Where crash tests play: a started stack whose rhyzome-grpc and agent were taken away for good, in their place processes
 * that are there to be killed, and this process as the one that asks. Time that a lease would take to run out is not waited for.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sql } from 'kysely';
import { newId } from '#libs/core';
import { Database, Listener } from '#libs/db';
import { type DevIssuer, startIssuer } from '#libs/devissuer';
import { kinds } from '#libs/kinds';
import { JobService, KindRegistry, Pipeline, ResourceReader, readInstallation } from '#libs/resources';
import { callerIn, type Platform } from '#libs/testing';
import { rhyzome } from '../harness/grpc.js';
import type { SimNodeState } from '../harness/invariants.js';
import { NodeHost } from '../harness/node-host.js';
import { nodeState, simNode } from '../harness/replica.js';
import { type Stack, stackNamed } from '../harness/stack.js';
import { until } from '../harness/until.js';
import { Victims } from './victims.js';

const SECOND = 'node2';

export interface Stage {
  stack: Stack;
  platform: Platform;
  /** Absent where the stack's own runs on. */
  grpc?: Victims;
  /** Of the stack's node, and of the one that machines move to. */
  agents: readonly Victims[];
  /** What the invariants look at. */
  nodes: readonly SimNodeState[];
  /** Whether the second node takes in what is new; while it does not, all is made on the first. */
  openSecond(isOpen: boolean): Promise<void>;
  /** The dead ones' leases run out. */
  expireLeases(): Promise<void>;
  /** What `rhyzome job resolve --redo` is for: deeds that may have happened. */
  resolveUnclear(): Promise<number>;
  close(): Promise<void>;
}

/** With simulated machines. */
export async function openStage(name: string): Promise<Stage & { grpc: Victims }> {
  const stack = await stackNamed(name, { driver: 'sim', tenants: ['acme'] });
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const supervisor = stack.dev.pid;
  // It starts again what dies: it sleeps while its place is taken.
  process.kill(supervisor, 'SIGSTOP');
  for (const program of ['grpc', 'agent'] as const) stack.kill(program);
  // The stack's token issuer, which keeps people, sleeps with its process.
  const issuer = await startIssuer({ port: 0, tenants: [], dataDir: mkdtempSync(join(stack.data, 'issuer-')) });
  const config = configOf(stack, settings, issuer);
  const platform = await asker(settings);
  const { name: first } = platform.node;
  const log = (program: string) => join(stack.data, `victims-${program}.log`);
  const grpc = new Victims('grpc', config, log('grpc'), () => isReady(settings.grpc.monitoring));
  const second = await simNode(stack, SECOND, [{ address: stack.dev.grpc }]);
  const agents = [
    new Victims('agent', config, log(first), () => isConnected(platform, first)),
    new Victims('agent', second.config, log(SECOND), () => isConnected(platform, SECOND)),
  ];
  await grpc.next();
  for (const agent of agents) await agent.next();
  let isSecondOpen = true;
  const stage = {
    stack,
    platform,
    grpc,
    agents,
    nodes: [
      { name: first, stateDir: join(stack.data, 'agent') },
      { name: SECOND, stateDir: nodeState(stack, SECOND) },
    ],
    openSecond: async (isOpen: boolean) => {
      if (isOpen !== isSecondOpen) await rhyzome(stack, 'node', isOpen ? 'uncordon' : 'cordon', SECOND);
      isSecondOpen = isOpen;
    },
    ...timeAndWord(stack, platform),
    close: async () => {
      for (const victims of [grpc, ...agents]) await victims.close();
      await platform.close();
      await issuer.stop();
      rmSync(config);
      process.kill(supervisor, 'SIGCONT');
    },
  };
  await stage.openSecond(false);
  return stage;
}

/** With the machines of a hypervisor: the stack's own node, whose agent is there to be killed. The stack is given back as it was. */
export async function openLibvirtStage(stack: Stack): Promise<Stage> {
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const host = NodeHost.of(stack);
  const before = stack.identity('agent');
  const supervisor = stack.dev.pid;
  process.kill(supervisor, 'SIGSTOP');
  stack.kill('agent');
  const platform = await asker(settings);
  const { name } = platform.node;
  const log = join(stack.data, `victims-${name}.log`);
  const agent = new Victims('agent', stack.dev.config, log, () => isConnected(platform, name), host.command);
  await agent.next();
  return {
    stack,
    platform,
    agents: [agent],
    nodes: [],
    openSecond: async () => undefined,
    ...timeAndWord(stack, platform),
    close: async () => {
      await agent.close();
      process.kill(supervisor, 'SIGCONT');
      await stack.restarted('agent', before);
      await until('the stack’s own agent', () => isConnected(platform, name));
      await platform.close();
    },
  };
}

/** What hours and an administrator do. */
function timeAndWord(stack: Stack, { db }: Platform): Pick<Stage, 'expireLeases' | 'resolveUnclear'> {
  return {
    expireLeases: async () => {
      await sql`update job set lease_until = now() - interval '1 second', run_at = least(run_at, now())
        where finished_at is null and lease_until is not null`.execute(db.operator);
      await sql`select pg_notify('rhyzome_job', '')`.execute(db.operator);
    },
    resolveUnclear: async () => {
      const { rows } = await sql<{ id: string }>`select id from deed where state = 'unclear'`.execute(db.operator);
      for (const { id } of rows) await rhyzome(stack, 'job', 'resolve', id, '--redo');
      return rows.length;
    },
  };
}

/**
 * The stack's settings with another issuer, and with room for all that is held. Each agent takes in machines at another address
 * than the one before it.
 */
function configOf(stack: Stack, settings: any, { url, admin }: DevIssuer): string {
  const keycloak = { ...settings.keycloak, url, clientId: admin.clientId, clientSecretFile: admin.secretFile };
  const grpc = { ...settings.grpc, workers: 1_000 };
  const images = { ...settings.images, allowedSources: ['127.0.0.0/8'] };
  const agent = { ...settings.agent, migration: { listen: '127.0.0.1:0' } };
  const config = join(stack.data, 'victims.json');
  writeFileSync(config, JSON.stringify({ ...settings, grpc, images, keycloak, agent }), { mode: 0o600 });
  return config;
}

function isReady(monitoring: string): Promise<boolean> {
  return fetch(`http://${monitoring}/readyz`).then(
    ({ ok }) => ok,
    () => false,
  );
}

async function isConnected({ db }: Pick<Platform, 'db'>, name: string): Promise<boolean> {
  const { rows } = await sql`select 1 from node n where n.name = ${name} and node_connected(n)`.execute(db.operator);
  return rows.length > 0;
}

/** A platform without workers and without a node of its own: it asks, others do. */
async function asker(settings: { db: string; dbOperator: string }): Promise<Platform> {
  const connection = { connectionString: settings.dbOperator };
  const db = new Database({ app: { connectionString: settings.db }, operator: connection });
  const listener = new Listener(connection, 'rhyzome_operator');
  const registry = new KindRegistry(kinds);
  const { tokenKey } = await readInstallation(db);
  await listener.start();
  const jobs = new JobService(db, registry, tokenKey, listener);
  const node = await until('a node', () => db.operator.selectFrom('node').select(['id', 'name']).executeTakeFirst());
  const ended: Platform['ended'] = async (caller, jobId) => {
    if (!(await jobs.wait(caller, jobId, 120_000))) {
      throw new Error(`job ${jobId} has not ended: ${JSON.stringify(await jobs.get(caller, jobId))}`);
    }
    return jobs.get(caller, jobId);
  };
  const platform: Partial<Platform> = {
    db,
    listener,
    registry,
    jobs,
    pipeline: new Pipeline(db, registry),
    reader: new ResourceReader(db, tokenKey),
    // The real one works by itself.
    node: { ...node, look: async () => undefined } as unknown as Platform['node'],
    tenant: async (id = `t${newId().replaceAll('-', '').slice(-12)}`, role = 'admin') => {
      await db.operator.insertInto('tenant').values({ id, display_name: id }).execute();
      return callerIn(id, role);
    },
    ended,
    done: async (caller, change) => {
      const job = await ended(caller, change.jobId!);
      if (job.state !== 'succeeded') throw new Error(`the job ${job.state}: ${JSON.stringify(job.error)}`);
      return job;
    },
    close: async () => {
      await listener.close();
      await db.close();
    },
  };
  return platform as Platform;
}
