/**
 * A node is emptied: its machines move to others, a few at a time, until none is left that can. What is done stands in
 * the database, so that a drain that was stopped goes on where it was, and what was under way ends without it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import type { JobRow } from '#libs/jobs';
import { type Moves, outcomeOf } from './moves.js';
import { type MovableRouter, routersToMove } from './routers.js';

export interface DrainOptions {
  nodeId: string;
  atOnce: number;
  mayStop: boolean;
  /** Aborted: nothing more is begun, and what is under way is not waited for. */
  stopping: AbortSignal;
  tell(text: string): void;
  /** Throws RhyzomeError where it stays. */
  moveRouter(router: MovableRouter): Promise<unknown>;
}

export interface DrainResult {
  moved: number;
  /** Of networks that are on another node, too; with the last machine of the others it goes by itself. */
  movedRouters: number;
  /** What is still there, and why. */
  left: { kind: string; tenant: string; name: string; id: string; why: string }[];
}

interface Machine {
  tenant: string;
  id: string;
  name: string;
  /** Its job that has not ended. */
  job: string | null;
  action: string | null;
}

const LOOK_MS = 500;
const ROUTERS_AT_ONCE = 8;
/** So long is somebody else's change of a machine waited for. */
const BUSY_MS = 10 * 60_000;

export async function drain(db: Database, moves: Moves, options: DrainOptions): Promise<DrainResult> {
  const { stopping, tell } = options;
  const refused = new Map<string, string>();
  const running = new Map<string, Machine>();
  const routers = new Routers(db, options);
  const since = Date.now();
  let moved = 0;
  const settle = async () => {
    for (const [jobId, machine] of running) {
      const job = await moves.job(jobId);
      if (!job.finished_at) continue;
      running.delete(jobId);
      if (job.state === 'succeeded') moved += 1;
      else refused.set(machine.id, outcomeOf(job));
      tell(`${machine.tenant}/${machine.name}: ${outcomeOf(job)}${movedTo(job)}`);
    }
  };
  for (;;) {
    await settle();
    const there = await db.operatorTransaction((tx) => machinesOn(tx, options.nodeId));
    const open = there.filter(({ id }) => !refused.has(id));
    // What moves already (a drain before this one asked for it) is waited for like what is begun here.
    for (const machine of open) {
      if (machine.job && machine.action === 'migrate') running.set(machine.job, machine);
    }
    if (stopping.aborted || (open.length === 0 && running.size === 0)) break;
    // Before the last machine of their networks is gone, since guests miss a router for less time that moves on its own.
    await routers.move();
    for (const machine of open.filter(({ job }) => job === null)) {
      if (running.size >= options.atOnce) break;
      const begun = await begin(moves, machine, options.mayStop);
      if (begun.job !== undefined) running.set(begun.job, machine);
      else if (begun.refusal !== undefined) refuse(refused, machine, begun.refusal, tell);
    }
    if (running.size === 0 && Date.now() - since > BUSY_MS) {
      for (const machine of open) refuse(refused, machine, 'another change of it does not end', tell);
    }
    await sleep(LOOK_MS, undefined, { signal: stopping }).catch(() => undefined); // Only the wish to stop ends it early.
  }
  return {
    moved,
    movedRouters: routers.moved,
    left: await db.operatorTransaction((tx) => leftOn(tx, options.nodeId, refused)),
  };
}

/** Moves what routers of the node can go elsewhere by now, each once. */
class Routers {
  moved = 0;
  private readonly tried = new Set<string>();

  constructor(
    private readonly db: Database,
    private readonly options: DrainOptions,
  ) {}

  async move(): Promise<void> {
    const { nodeId, stopping } = this.options;
    const all = await this.db.operatorTransaction((tx) => routersToMove(tx, nodeId));
    const open = all.filter(({ network }) => !this.tried.has(network));
    while (open.length > 0 && !stopping.aborted) {
      await Promise.all(open.splice(0, ROUTERS_AT_ONCE).map((router) => this.moveOne(router)));
    }
  }

  private async moveOne(router: MovableRouter): Promise<void> {
    const { moveRouter, tell } = this.options;
    this.tried.add(router.network);
    const what = `${router.tenantId}/${router.name}: its router`;
    try {
      await moveRouter(router);
      this.moved += 1;
      tell(`${what} moved to ${router.toName}`);
    } catch (error) {
      if (!(error instanceof RhyzomeError)) throw error;
      tell(`${what} goes with the last machine: ${error.message}`);
    }
  }
}

function refuse(refused: Map<string, string>, machine: Machine, why: string, tell: (text: string) => void): void {
  refused.set(machine.id, why);
  tell(`${machine.tenant}/${machine.name}: stays: ${why}`);
}

/** Neither: another change has come first, and is waited for. */
async function begin(
  moves: Moves,
  { tenant, id }: Machine,
  mayStop: boolean,
): Promise<{ job?: string; refusal?: string }> {
  try {
    return { job: await moves.begin(tenant, id, { mayStop }) };
  } catch (error) {
    if (!(error instanceof RhyzomeError)) throw error;
    if (error.code === 'busy') return {};
    return { refusal: error.message };
  }
}

function movedTo({ state, started_at, finished_at }: JobRow): string {
  if (state !== 'succeeded' || !started_at || !finished_at) return '';
  return ` in ${((finished_at.getTime() - started_at.getTime()) / 1000).toFixed(1)} s`;
}

async function machinesOn(tx: Tx, nodeId: string): Promise<Machine[]> {
  const result = await sql<Machine>`
    select k.tenant_id as tenant, k.id, r.name, j.id as job, j.action
    from instance k join resource r on r.tenant_id = k.tenant_id and r.id = k.id
    left join job j on j.tenant_id = k.tenant_id and j.resource_id = k.id and j.finished_at is null
    where k.node_id = ${nodeId} and exists (select 1 from placement p
      where p.tenant_id = k.tenant_id and p.resource_id = k.id and p.node_id = k.node_id and p.present)
    order by k.tenant_id, r.name`.execute(tx);
  return result.rows;
}

/** All that is on the node and does not move by itself. */
async function leftOn(tx: Tx, nodeId: string, refused: ReadonlyMap<string, string>): Promise<DrainResult['left']> {
  const machines = (await machinesOn(tx, nodeId)).map(({ tenant, id, name }) => ({
    ...{ kind: 'instance', tenant, name, id },
    why: refused.get(id) ?? 'not moved yet',
  }));
  const disks = await sql<{ tenant: string; id: string; name: string; until: Date | null }>`
    select k.tenant_id as tenant, k.id, r.name, null as until
    from disk k join resource r on r.tenant_id = k.tenant_id and r.id = k.id
    where k.node_id = ${nodeId} and k.instance_id is null and exists (select 1 from placement p
      where p.tenant_id = k.tenant_id and p.resource_id = k.id and p.node_id = k.node_id and p.present)
    union all
    select d.tenant_id, d.id, d.name, d.expires_at from deleted_disk d where d.node_id = ${nodeId}
    order by 1, 3`.execute(tx);
  const left = disks.rows.map(({ tenant, id, name, until }) => ({
    ...{ kind: until ? 'deleted disk' : 'disk', tenant, name, id },
    why: until
      ? `deleted; it can be had back until ${until.toISOString()}`
      : 'no machine has it; it moves with one that it is attached to',
  }));
  return [...machines, ...left];
}
