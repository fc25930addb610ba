/**
 * A node is emptied: its machines, and the disks that no machine has, move to others, a few at a time, until none is left that
 * can. Deleted disks that can still be had back go only where that was said. What is done stands in the database, so that a
 * drain that was stopped goes on where it was, and what was under way ends without it.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { RhyzomeError } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import type { JobRow } from '#libs/jobs';
import { administrator } from './context.js';
import { type MovableKind, type Moves, outcomeOf } from './moves.js';
import { type MovableRouter, routersToMove } from './routers.js';

export interface DrainOptions {
  nodeId: string;
  atOnce: number;
  mayStop: boolean;
  /** Deleted disks are not kept any longer. */
  purge: boolean;
  /** Aborted: nothing more is begun, and what is under way is not waited for. */
  stopping: AbortSignal;
  tell(text: string): void;
  /** Throws RhyzomeError where it stays. */
  moveRouter(router: MovableRouter): Promise<unknown>;
}

export interface DrainResult {
  /** Machines. */
  moved: number;
  /** Disks that no machine has. */
  movedDisks: number;
  /** Deleted disks that cannot be had back any more. */
  purged: number;
  /** Of networks that are on another node, too; with the last machine of the others it goes by itself. */
  movedRouters: number;
  /** What is still there, and why. */
  left: { kind: string; tenant: string; name: string; id: string; why: string }[];
}

interface Movable {
  kind: MovableKind;
  tenant: string;
  id: string;
  name: string;
  /** Its job that has not ended. */
  job: string | null;
  action: string | null;
}

const LOOK_MS = 500;
const ROUTERS_AT_ONCE = 8;
/** So long is somebody else's change of one waited for. */
const BUSY_MS = 10 * 60_000;

export async function drain(db: Database, moves: Moves, options: DrainOptions): Promise<DrainResult> {
  const { stopping, tell } = options;
  const refused = new Map<string, string>();
  const running = new Map<string, Movable>();
  const routers = new Routers(db, options);
  const since = Date.now();
  const moved = { instance: 0, disk: 0 };
  const purged = options.purge ? await purgeDeletedOn(db, options.nodeId, tell) : 0;
  const settle = async () => {
    for (const [jobId, machine] of running) {
      const job = await moves.job(jobId);
      if (!job.finished_at) continue;
      running.delete(jobId);
      if (job.state === 'succeeded') moved[machine.kind] += 1;
      else refused.set(machine.id, outcomeOf(job));
      tell(`${machine.tenant}/${machine.name}: ${outcomeOf(job)}${movedTo(job)}`);
    }
  };
  for (;;) {
    await settle();
    const there = await db.operatorTransaction((tx) => movablesOn(tx, options.nodeId));
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
  const { instance: machines, disk: movedDisks } = moved;
  const left = await db.operatorTransaction((tx) => leftOn(tx, options.nodeId, refused));
  return { moved: machines, movedDisks, movedRouters: routers.moved, purged, left };
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
      tell(`${what} moved to ${router.to.name}`);
    } catch (error) {
      if (!(error instanceof RhyzomeError)) throw error;
      tell(`${what} goes with the last machine: ${error.message}`);
    }
  }
}

function refuse(refused: Map<string, string>, machine: Movable, why: string, tell: (text: string) => void): void {
  refused.set(machine.id, why);
  tell(`${machine.tenant}/${machine.name}: stays: ${why}`);
}

/** Neither: another change has come first, and is waited for. */
async function begin(
  moves: Moves,
  { kind, tenant, id }: Movable,
  mayStop: boolean,
): Promise<{ job?: string; refusal?: string }> {
  try {
    return { job: await moves.begin(kind, tenant, id, kind === 'instance' ? { mayStop } : {}) };
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

/** Machines, and disks that none has. A machine's disks go with it, and one that waits for it is none of these. */
async function movablesOn(tx: Tx, nodeId: string): Promise<Movable[]> {
  const result = await sql<Movable>`
    select here.kind, here.tenant, here.id, r.name, j.id as job, j.action
    from (
      select 'instance' as kind, k.tenant_id as tenant, k.id from instance k where k.node_id = ${nodeId}
      union all
      select 'disk', d.tenant_id, d.id from disk d where d.node_id = ${nodeId} and d.instance_id is null) here
    join resource r on r.tenant_id = here.tenant and r.id = here.id
    left join job j on j.tenant_id = here.tenant and j.resource_id = here.id and j.finished_at is null
    where exists (select 1 from placement p
      where p.tenant_id = here.tenant and p.resource_id = here.id and p.node_id = ${nodeId} and p.present)
    order by here.kind desc, here.tenant, r.name`.execute(tx);
  return result.rows;
}

/** All that is on the node and does not move by itself. */
async function leftOn(tx: Tx, nodeId: string, refused: ReadonlyMap<string, string>): Promise<DrainResult['left']> {
  const movables = (await movablesOn(tx, nodeId)).map(({ kind, tenant, id, name }) => ({
    ...{ kind, tenant, name, id },
    why: refused.get(id) ?? 'not moved yet',
  }));
  const deleted = await sql<{ tenant: string; id: string; name: string; until: Date }>`
    select d.tenant_id as tenant, d.id, d.name, d.expires_at as until from deleted_disk d where d.node_id = ${nodeId}
    order by 1, 3`.execute(tx);
  const kept = deleted.rows.map(({ tenant, id, name, until }) => ({
    ...{ kind: 'deleted disk', tenant, name, id },
    why: `deleted; it can be had back until ${until.toISOString()}`,
  }));
  return [...movables, ...kept];
}

/** Each in a transaction of its own, in its tenant's audit. */
async function purgeDeletedOn(db: Database, nodeId: string, tell: (text: string) => void): Promise<number> {
  const [{ purgeDeletedAs }, { adminActor }, { newId }] = await Promise.all([
    import('#libs/kinds/disk'),
    import('#libs/auth'),
    import('#libs/core'),
  ]);
  const { rows } = await sql<{ tenant: string; id: string; name: string }>`
    select tenant_id as tenant, id, name from deleted_disk where node_id = ${nodeId} order by 1, 3`.execute(
    db.operator,
  );
  for (const { tenant, id, name } of rows) {
    const caller = { actor: adminActor(tenant, administrator()), requestId: newId() };
    await db.tenantTransaction(tenant, (tx) => purgeDeletedAs(tx, caller, { id, name }));
    tell(`${tenant}/${name}: purged`);
  }
  return rows.length;
}
