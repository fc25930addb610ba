/**
 * Where crash tests play: a started stack whose rhyzome-grpc and agent were taken away for good, in their place processes
 * that are there to be killed, and this process as the one that asks. Time that a lease would take to run out is not waited for.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sql } from 'kysely';
import { newId } from '#libs/core';
import { Database, Listener } from '#libs/db';
import { startIssuer } from '#libs/devissuer';
import { kinds } from '#libs/kinds';
import { JobService, KindRegistry, Pipeline, ResourceReader, readInstallation } from '#libs/resources';
import { callerIn, type Platform } from '#libs/testing';
import { rhyzome } from '../harness/grpc.js';
import { type Stack, stackNamed } from '../harness/stack.js';
import { until } from '../harness/until.js';
import { Victims } from './victims.js';

export interface Stage {
  stack: Stack;
  platform: Platform;
  grpc: Victims;
  agent: Victims;
  /** The dead ones' leases run out. */
  expireLeases(): Promise<void>;
  /** What `rhyzome job resolve --redo` is for: deeds that may have happened. */
  resolveUnclear(): Promise<number>;
  close(): Promise<void>;
}

export async function openStage(name: string, driver: 'sim' | 'libvirt'): Promise<Stage> {
  const stack = await stackNamed(name, { driver, tenants: ['acme'] });
  const settings = JSON.parse(readFileSync(stack.dev.config, 'utf8'));
  const supervisor = stack.dev.pid;
  // It starts again what dies: it sleeps while its place is taken.
  process.kill(supervisor, 'SIGSTOP');
  for (const program of ['grpc', 'agent'] as const) stack.kill(program);
  // Its token issuer, which keeps people, is in its process; these lives have one of their own.
  const issuer = await startIssuer({ port: 0, tenants: [], dataDir: mkdtempSync(join(stack.data, 'issuer-')) });
  const { clientId, secretFile: clientSecretFile } = issuer.admin;
  const keycloak = { ...settings.keycloak, url: issuer.url, clientId, clientSecretFile };
  const config = join(stack.data, 'victims.json');
  const grpc = { ...settings.grpc, workers: 1_000 };
  const images = { ...settings.images, allowedSources: ['127.0.0.0/8'] };
  writeFileSync(config, JSON.stringify({ ...settings, grpc, images, keycloak }), { mode: 0o600 });
  const platform = await asker(settings);
  const log = (program: string) => join(stack.data, `victims-${program}.log`);
  const victims = {
    grpc: new Victims('grpc', config, log('grpc'), () => isReady(settings.grpc.monitoring)),
    agent: new Victims('agent', config, log('agent'), () => isConnected(platform)),
  };
  await victims.grpc.next();
  await victims.agent.next();
  return {
    stack,
    platform,
    ...victims,
    expireLeases: async () => {
      await sql`update job set lease_until = now() - interval '1 second', run_at = least(run_at, now())
        where finished_at is null and lease_until is not null`.execute(platform.db.operator);
      await sql`select pg_notify('rhyzome_job', '')`.execute(platform.db.operator);
    },
    resolveUnclear: async () => {
      const { rows } = await sql<{ id: string }>`select id from deed where state = 'unclear'`.execute(
        platform.db.operator,
      );
      for (const { id } of rows) await rhyzome(stack, 'job', 'resolve', id, '--redo');
      return rows.length;
    },
    close: async () => {
      await Promise.all([victims.grpc.close(), victims.agent.close()]);
      await platform.close();
      await issuer.stop();
      rmSync(config);
      process.kill(supervisor, 'SIGCONT');
    },
  };
}

function isReady(monitoring: string): Promise<boolean> {
  return fetch(`http://${monitoring}/readyz`).then(
    ({ ok }) => ok,
    () => false,
  );
}

async function isConnected({ db }: Pick<Platform, 'db'>): Promise<boolean> {
  const { rows } = await sql`select 1 from node n where node_connected(n)`.execute(db.operator);
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
