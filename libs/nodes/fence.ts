/**
 * Fencing: a node is declared gone only when its machine is known to be off, by an administrator's word or by the success of
 * the configured command (fencer.ts). Everything that follows from it is one transaction. It never reaches the node.
 */
import { sql } from 'kysely';
import { newId, RhyzomeError } from '#libs/core';
import { type Database, type Tx, wakeAfterCommit } from '#libs/db';
import { wakeJobs } from '#libs/jobs';
import type { KindRegistry } from '#libs/resources';
import type { NodeState } from './state.js';

export interface FenceRow {
  id: string;
  node_id: string;
  epoch: number;
  how: 'word' | 'command';
  asked_by: string;
  asked_at: Date;
  state: 'asked' | 'running' | 'succeeded' | 'failed';
  attempts: number;
  detail: string | null;
  finished_at: Date | null;
}

interface LockedNode {
  id: string;
  name: string;
  epoch: number;
  state: NodeState;
}

/**
 * Locks a node that may be fenced. Throws RhyzomeError `conflict` when it is gone already, or when it is heard and
 * `evenIfHeard` was not said: fencing a machine that runs is how two of one come to be.
 */
export async function lockForFence(tx: Tx, nodeId: string, evenIfHeard = false): Promise<LockedNode> {
  const found = await sql<LockedNode>`
    select n.id, n.name, n.epoch, node_state(n) as state from node n where n.id = ${nodeId} for no key update`.execute(
    tx,
  );
  const node = found.rows[0];
  if (!node) throw new RhyzomeError('not_found', 'There is no such node.');
  if (node.state === 'gone') throw new RhyzomeError('conflict', `Node ${node.name} is fenced already.`);
  if (node.state !== 'unreachable' && !evenIfHeard)
    throw new RhyzomeError(
      'conflict',
      `Node ${node.name} is ${node.state}: it was heard just now, so its machine is on. Switch it off first.`,
    );
  return node;
}

/**
 * An administrator's word that the machine is off: recorded, and done. An attempt by the command that is open is answered
 * by it, too.
 */
export async function fenceByWord(
  tx: Tx,
  registry: KindRegistry,
  node: LockedNode,
  askedBy: string,
): Promise<{ epoch: number }> {
  const ended = await sql`
    update node_fence set state = 'succeeded', how = 'word', asked_by = ${askedBy}, finished_at = now(), lease_until = null
    where node_id = ${node.id} and finished_at is null returning 1`.execute(tx);
  if (ended.rows.length === 0)
    await sql`
      insert into node_fence (id, node_id, epoch, how, asked_by, state, finished_at)
      values (${newId()}, ${node.id}, ${node.epoch}, 'word', ${askedBy}, 'succeeded', now())`.execute(tx);
  return declareGone(tx, registry, node);
}

/** Asks for the configured command; gives the id of the fence, of the open one where there is one. */
export async function askForFence(tx: Tx, node: LockedNode, askedBy: string): Promise<string> {
  const open = await sql<{ id: string }>`
    update node_fence set run_at = now() where node_id = ${node.id} and finished_at is null returning id`.execute(tx);
  if (open.rows[0]) return open.rows[0].id;
  const id = newId();
  await sql`
    insert into node_fence (id, node_id, epoch, how, asked_by)
    values (${id}, ${node.id}, ${node.epoch}, 'command', ${askedBy})`.execute(tx);
  return id;
}

/** Takes back a fence that nobody has begun; false: somebody has, or it has ended. */
export async function withdrawFence(tx: Tx, id: string): Promise<boolean> {
  const ended = await sql`
    update node_fence set state = 'failed', finished_at = now(), detail = 'nobody took it up'
    where id = ${id} and state = 'asked' and attempts = 0 returning 1`.execute(tx);
  return ended.rows.length > 0;
}

export async function readFence(tx: Tx, id: string): Promise<FenceRow | undefined> {
  return (await sql<FenceRow>`select * from node_fence where id = ${id}`.execute(tx)).rows[0];
}

/** The last fences of a node, the newest first. */
export async function listFences(tx: Tx, nodeId: string, limit = 5): Promise<FenceRow[]> {
  const found = await sql<FenceRow>`
    select * from node_fence where node_id = ${nodeId} order by asked_at desc, id desc limit ${limit}`.execute(tx);
  return found.rows;
}

/**
 * The machine is off. The epoch rises, so that whatever its agent says next does not count until it has stopped what is no
 * longer its own; its stream is cut; nothing on it counts as ready; addresses that were held for it are free; deeds that it
 * was asked for have failed, or are unclear where they may not happen twice. Kinds do their part (`nodeGone`).
 */
export async function declareGone(tx: Tx, registry: KindRegistry, node: LockedNode): Promise<{ epoch: number }> {
  const { id, name } = node;
  const raised = await sql<{ epoch: number }>`
    update node set epoch = epoch + 1, gone_at = now(), fenced_at = now() where id = ${id} returning epoch`.execute(tx);
  await sql`update node_session set session = session + 1, replica = null where node_id = ${id}`.execute(tx);
  const failure = JSON.stringify({ code: 'node_gone', message: `Node ${name} is gone.` });
  await sql`
    update placement set revision = nextval('placement_revision'), phase = 'progressing', failure = ${failure}::jsonb
    where node_id = ${id} and present`.execute(tx);
  await sql`delete from held_address where node_id = ${id}`.execute(tx);
  await sql`
    update deed set state = case when repeatable then 'failed' else 'unclear' end,
      failure = ${failure}::jsonb, finished_at = case when repeatable then now() end
    where node_id = ${id} and state = 'asked'`.execute(tx);
  for (const kind of registry.all) await kind.nodeGone?.(tx, id);
  wakeAfterCommit('rhyzome_session', id);
  return raised.rows[0]!;
}

/**
 * Wakes the jobs that wait for something on a node, of all tenants: one transaction each, since whoever holds such a job
 * may be waiting for a placement. What is missed finds out by itself at its next look.
 */
export async function wakeJobsOfNode(db: Database, nodeId: string): Promise<void> {
  const waiting = await sql<{ tenant_id: string; resource_id: string }>`
    select distinct j.tenant_id, j.resource_id from placement p
    join job j on j.tenant_id = p.tenant_id and p.resource_id in (j.resource_id, j.waits_for)
    where p.node_id = ${nodeId} and j.finished_at is null`.execute(db.operator);
  for (const { tenant_id, resource_id } of waiting.rows)
    await db.operatorTransaction((tx) => wakeJobs(tx, tenant_id, [resource_id]));
}
