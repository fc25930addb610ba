/**
 * A disk that no instance has on its way to another node. Nobody writes to it meanwhile, so it is its node's until all of it is
 * on the other, and then the other's by one transaction. What is on storage that both share is only taken over.
 */
import { sql } from 'kysely';
import type { Actor } from '#libs/auth';
import { newId, type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import type { AbandonArguments, Incoming, MigrateArguments } from '#libs/drivers/contract';
import { askDeed, placementsOf, probeDeed, probeReady, reserveNode, withdrawDeed } from '#libs/nodes';
import type { Job, Who } from '#libs/resources';
import { findMove, type Move, nodesFor, refuseTenant } from './moves.js';
import { awaitDisk, forgetTakenAlone, leaveDisk, lockMovableAlone, moveDisk, takeOverDisk } from './moving.js';
import { MAKE_DISK_MS } from './on-node.js';
import type { DiskRow } from './rows.js';

/**
 * Takes the room on another node and writes down the move. Throws RhyzomeError `forbidden`, `not_ready`, `busy`, `in_use`,
 * `no_capacity`; `invalid` for a node that there is not, or that cannot take it.
 */
export async function claimDiskMove(
  tx: Tx,
  core: ResourceCore,
  row: DiskRow,
  wish: string | undefined,
  actor: Actor | undefined,
): Promise<void> {
  await refuseTenant(tx, core.tenantId, actor);
  const disk = await lockMovableAlone(tx, core);
  if (!row.node_id) throw new RhyzomeError('not_ready', 'The disk is on no node.');
  const { nodes, storage } = await nodesFor(tx, core, row.node_id, [disk], wish);
  const stays = disk.storage !== null && disk.storage === storage;
  const id = newId();
  const demand = { vcpus: 0, memoryMiB: 0, diskGiB: stays ? 0 : disk.sizeGiB };
  const asks = storage ? `another on shared storage ${storage} that takes it in` : 'another that takes it in';
  const required = [{ name: 'node', asks, only: new Set(nodes) }];
  const toNode = await reserveNode(tx, { tenantId: core.tenantId, id, kind: 'disk' }, demand, { required });
  await tx
    .insertInto('move')
    .values({
      ...{ tenant_id: core.tenantId, id, resource_id: core.id, from_node: row.node_id, to_node: toNode },
      ...{ mode: 'cold', may_stop: false, abandon_id: newId() },
    })
    .execute();
}

export async function moveAlone(job: Job<Tx>, core: ResourceCore): Promise<void> {
  const stays = await job.step('look where it lies', { act: (tx) => staysWhere(tx, core) });
  job.plan(stays ? 4 : 6);
  if (!stays) await send(job, core);
  await job.ask('let it be there', {
    act: (tx) => switchOver(tx, core, stays),
    cancellable: false,
    until: {
      name: 'it is as wanted there',
      probe: async (tx) => {
        const answer = await probeReady(tx, core);
        return answer instanceof Waiting ? answer : 'ready';
      },
    },
  });
  // Until the other has taken its file over, it would be removed.
  if (stays) await job.step('have it forgotten where it was', { act: (tx) => forgetTakenAlone(tx, core) });
}

async function send(job: Job<Tx>, core: ResourceCore): Promise<void> {
  await job.ask('make ready for it there', {
    act: (tx) => makeReady(tx, core),
    undo: (tx) => takeBackReady(tx, core),
    // Its image is fetched for it.
    until: { name: 'all is ready there', deadlineMs: MAKE_DISK_MS, probe: (tx) => probeThere(tx, core) },
  });
  await job.ask('send it', {
    act: (tx) => askToSend(tx, core),
    undo: (tx) => askToAbandon(tx, core),
    undone: (tx) => probeAbandoned(tx, core),
    until: { name: 'it is there', deadlineMs: false, probe: (tx) => probeSent(tx, core) },
  });
}

async function moveOf(tx: Tx, core: Who): Promise<Move> {
  const found = await findMove(tx, core);
  if (!found) throw new RhyzomeError('job_failed', 'The move is not written down any more.');
  return found;
}

async function staysWhere(tx: Tx, core: Who): Promise<boolean> {
  const { toNode } = await moveOf(tx, core);
  const found = await sql`
    select 1 from disk d join node n on n.storage = d.storage
    where d.tenant_id = ${core.tenantId} and d.id = ${core.id} and n.id = ${toNode}`.execute(tx);
  return found.rows.length > 0;
}

async function makeReady(tx: Tx, core: ResourceCore): Promise<void> {
  const { id: operationId, fromName: from, toNode } = await moveOf(tx, core);
  const incoming: Incoming = { operationId, from, mode: 'cold', alone: true };
  await awaitDisk(tx, core, toNode, incoming);
}

async function takeBackReady(tx: Tx, core: ResourceCore): Promise<void> {
  const { toNode } = await moveOf(tx, core);
  await leaveDisk(tx, core, toNode);
}

async function probeThere(tx: Tx, core: ResourceCore): Promise<'ready' | Waiting> {
  const { toNode, toName } = await moveOf(tx, core);
  const there = (await placementsOf(tx, core)).find(({ nodeId }) => nodeId === toNode);
  if (there?.isCurrent && there.phase === 'ready') return 'ready';
  if (there?.isGone) throw new RhyzomeError('job_failed', `Node ${toName} is gone.`);
  if (there?.isCurrent && there.phase === 'failed') {
    throw new RhyzomeError('job_failed', `Node ${toName}: ${there.failure?.message ?? 'it did not say why'}`);
  }
  const why = there?.failure ? ` tries again: ${there.failure.message}` : ' makes ready.';
  return new Waiting(`Node ${toName}${why}`, there?.isConnected === false, core.id);
}

async function askToSend(tx: Tx, core: ResourceCore): Promise<void> {
  const { id: operationId, fromNode, toName: node, address, mode, mayStop } = await moveOf(tx, core);
  const args: MigrateArguments = { operationId, to: { node, address }, mode, disks: [core.id], mayStop };
  // What has arrived already is not sent again.
  await askDeed(tx, core, { id: operationId, nodeId: fromNode, verb: 'migrate', arguments: args, repeatable: true });
}

async function probeSent(tx: Tx, core: ResourceCore): Promise<'moved' | Waiting> {
  const { id, fromName, isFromGone } = await moveOf(tx, core);
  const answer = await probeDeed(tx, core, id);
  if (!(answer instanceof Waiting)) return 'moved';
  if (isFromGone) {
    throw new RhyzomeError('job_failed', `Node ${fromName} is gone; what it was sending has not come whole.`, {
      extensions: { reason: 'node_gone', node: fromName },
    });
  }
  return answer.outside ? answer : new Waiting(`Node ${fromName} is sending it.`);
}

/** The deed itself goes first, so that no later stream asks for it again. */
async function askToAbandon(tx: Tx, core: ResourceCore): Promise<void> {
  const { id: operationId, fromNode, abandonId } = await moveOf(tx, core);
  await withdrawDeed(tx, core, operationId);
  const args: AbandonArguments = { operationId };
  await askDeed(tx, core, { id: abandonId, nodeId: fromNode, verb: 'abandon', arguments: args, repeatable: true });
}

/** A node that is gone sends nothing; the disk is its own, as it was. */
async function probeAbandoned(tx: Tx, core: ResourceCore): Promise<true | Waiting> {
  const { abandonId, fromName, isFromGone } = await moveOf(tx, core);
  if (isFromGone) return true;
  const answer = await probeDeed(tx, core, abandonId);
  if (!(answer instanceof Waiting)) return true;
  return answer.outside ? answer : new Waiting(`Node ${fromName} stops sending it.`);
}

/** It is the other node's: all that says where it is, says so from this transaction on. */
async function switchOver(tx: Tx, core: ResourceCore, stays: boolean): Promise<void> {
  const { id, fromNode, toNode } = await moveOf(tx, core);
  if (stays) return takeOverDisk(tx, core, { fromNode, toNode });
  await sql`select move_reservations(${id})`.execute(tx);
  await moveDisk(tx, core, toNode);
  await leaveDisk(tx, core, fromNode);
}
