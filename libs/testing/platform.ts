/**
 * The whole control plane in one process on a database of its own: pipeline, workers, event numbering, and a node that
 * does what it is told (or what a test tells it to). For tests of kinds and of what is behind REST and gRPC.
 */

import { sql } from 'kysely';
import { type Actor, type Role } from '#libs/auth';
import { newId } from '#libs/core';
import type { DatabaseOptions } from '#libs/db';
import { EventNumberer, EventReader } from '#libs/events';
import { JobRunner } from '#libs/jobs';
import {
  type Caller,
  type ChangeResult,
  JobService,
  type JobView,
  type KindDefinition,
  KindRegistry,
  Pipeline,
  ResourceJobs,
  ResourceReader,
  readInstallation,
} from '#libs/resources';
import { type TestDatabase, testDatabase } from './database.js';
import { ObedientNode } from './obedient-node.js';

export interface Platform extends TestDatabase {
  registry: KindRegistry;
  pipeline: Pipeline;
  reader: ResourceReader;
  jobs: JobService;
  events: EventReader;
  runner: JobRunner;
  node: ObedientNode;
  /** That one, and those that were added. */
  nodes: readonly ObedientNode[];
  /** Another node, which comes and goes with the platform. */
  addNode(): Promise<ObedientNode>;
  /** Makes a tenant and returns a caller in it. */
  tenant(id?: string, role?: Role): Promise<Caller>;
  /** Waits for a change's job; throws where it did not succeed. */
  done(caller: Caller, change: ChangeResult): Promise<JobView>;
  /** Waits for a change's job to end, however. */
  ended(caller: Caller, jobId: string): Promise<JobView>;
}

export interface PlatformOptions {
  kinds: readonly KindDefinition[];
  /** False: jobs are queued and nobody runs them. */
  workers?: boolean;
  onQuery?: DatabaseOptions['onQuery'];
}

const silent = { info: () => undefined, warn: () => undefined, error: () => undefined, debug: () => undefined };

export function callerIn(tenantId: string, role: Role = 'admin', subject = `${role}@${tenantId}`): Caller {
  const actor: Actor = { tenantId, subject, roles: [role], scopes: null, via: 'token' };
  return { actor, requestId: newId() };
}

export async function startPlatform(options: PlatformOptions): Promise<Platform> {
  const database = await testDatabase({ onQuery: options.onQuery });
  const { db, listener, connection } = database;
  const registry = new KindRegistry(options.kinds);
  const { tokenKey } = await readInstallation(db);
  const runner = new JobRunner(db, listener, new ResourceJobs(db, registry), { log: silent });
  const numberer = new EventNumberer(connection, listener);
  const nodes: ObedientNode[] = [];
  const addNode = async () => {
    const added = new ObedientNode(db, listener, registry);
    nodes.push(added);
    await added.register();
    return added;
  };
  const node = await addNode();
  await listener.start();
  numberer.start();
  if (options.workers !== false) runner.start();
  const jobs = new JobService(db, registry, tokenKey, listener);
  const ended = async (caller: Caller, jobId: string) => {
    if (!(await jobs.wait(caller, jobId, 20_000))) {
      throw new Error(`job ${jobId} has not ended: ${JSON.stringify(await jobs.get(caller, jobId))}`);
    }
    return jobs.get(caller, jobId);
  };
  return {
    ...database,
    registry,
    pipeline: new Pipeline(db, registry),
    reader: new ResourceReader(db, tokenKey),
    jobs,
    events: new EventReader(db),
    runner,
    node,
    nodes,
    addNode,
    tenant: async (id = `t${newId().replaceAll('-', '').slice(-12)}`, role = 'admin') => {
      await sql`insert into tenant (id, display_name) values (${id}, ${id}) on conflict do nothing`.execute(
        db.operator,
      );
      return callerIn(id, role);
    },
    ended,
    done: async (caller, change) => {
      const job = await ended(caller, change.jobId!);
      if (job.state !== 'succeeded') throw new Error(`the job ${job.state}: ${JSON.stringify(job.error)}`);
      return job;
    },
    close: async () => {
      await runner.stop();
      for (const each of nodes) await each.close();
      await numberer.close();
      await database.close();
    },
  };
}

/** A global image as `rhyzome image import` makes it, without content. */
export async function globalImage(platform: Pick<Platform, 'db'>, name = 'tiny'): Promise<string> {
  const id = newId();
  await platform.db.operatorTransaction(async (tx) => {
    await sql`insert into resource (tenant_id, id, kind, name, state, created_by, observed_generation)
      values ('system', ${id}, 'image', ${name}, 'ready', 'admin:test', 1)`.execute(tx);
    await sql`insert into image (tenant_id, id, visibility, format, size_bytes, virtual_size_bytes, sha256)
      values ('system', ${id}, 'global', 'qcow2', 4096, 25165824, ${'ab'.repeat(32)})`.execute(tx);
  });
  return id;
}
