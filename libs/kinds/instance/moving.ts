/**
 * An instance on its way to another node, step by step. Until it is let go by the node that it leaves, it is that node's,
 * and undoing is a matter of taking back what was prepared; from then on it is the other's, whatever else happens, and
 * an undo that comes too late finds that and lets it be there.
 */
import { sql } from 'kysely';
import { newId, type ResourceCore, RhyzomeError, Waiting } from '#libs/core';
import type { Tx } from '#libs/db';
import type { AbandonArguments, Incoming, MigrateArguments } from '#libs/drivers/contract';
import { awaitDisk, findMove, leaveDisk, MAKE_DISK_MS, type Move, moveDisk, sharedWith } from '#libs/kinds/disk';
import { leaveNode, lockNetworks, placeNetworks, refreshNetworks } from '#libs/kinds/network';
import { askDeed, placementsOf, probeDeed, probeReady, withdraw, withdrawDeed } from '#libs/nodes';
import type { Job, Who } from '#libs/resources';
import { awaitInstance, tellInstance } from './on-node.js';

/** What of an instance lies on its node. */
interface Parts {
  disks: string[];
  networks: string[];
}

export async function move(job: Job<Tx>, core: ResourceCore): Promise<void> {
  job.plan(6);
  await job.ask('make ready for it there', {
    act: (tx) => makeReady(tx, core),
    undo: (tx) => takeBackReady(tx, core),
    // Images are fetched for it.
    until: { name: 'all is ready there', deadlineMs: MAKE_DISK_MS, probe: (tx) => probeThere(tx, core) },
  });
  await job.ask('send it', {
    act: (tx) => askToSend(tx, core),
    undo: (tx) => askToAbandon(tx, core),
    undone: (tx) => probeAbandoned(tx, core),
    until: { name: 'it is there', cancellable: false, deadlineMs: false, probe: (tx) => probeSent(tx, core) },
  });
  await job.ask('let it be there', {
    act: (tx) => switchOver(tx, core),
    cancellable: false,
    until: {
      name: 'it is as wanted there',
      probe: async (tx) => {
        const answer = await probeReady(tx, core);
        return answer instanceof Waiting ? answer : String(answer[0]?.status?.powerState ?? 'ready');
      },
    },
  });
}

async function moveOf(tx: Tx, core: Who): Promise<Move> {
  const found = await findMove(tx, core);
  if (!found) throw new RhyzomeError('job_failed', 'The move is not written down any more.');
  return found;
}

async function partsOf(tx: Tx, core: Who): Promise<Parts> {
  const result = await sql<Parts>`
    select array(select d.id from disk d where d.tenant_id = ${core.tenantId} and d.instance_id = ${core.id} order by d.slot) as disks,
      array(select distinct l.network_id from lease l
        where l.tenant_id = ${core.tenantId} and l.instance_id = ${core.id}) as networks`.execute(tx);
  return result.rows[0]!;
}

async function makeReady(tx: Tx, core: ResourceCore): Promise<void> {
  const { id: operationId, fromName: from, toNode, mode } = await moveOf(tx, core);
  const { disks, networks } = await partsOf(tx, core);
  const incoming: Incoming = { operationId, from, mode };
  await placeNetworks(tx, core.tenantId, toNode, networks);
  for (const id of disks) await awaitDisk(tx, { tenantId: core.tenantId, id }, toNode, incoming);
  await awaitInstance(tx, core, toNode, incoming);
}

/** Nobody waits for a node that takes it away late: it stays told, and gets nothing of it again before. */
async function takeBackReady(tx: Tx, core: ResourceCore): Promise<void> {
  const { toNode } = await moveOf(tx, core);
  if ((await nodeOf(tx, core)) === toNode) return;
  await leave(tx, core, toNode);
}

async function leave(tx: Tx, core: ResourceCore, nodeId: string): Promise<void> {
  const { disks, networks } = await partsOf(tx, core);
  await withdraw(tx, core, nodeId);
  for (const id of disks) await leaveDisk(tx, { tenantId: core.tenantId, id }, nodeId);
  await leaveNode(tx, core.tenantId, nodeId, networks, core.id);
}

async function nodeOf(tx: Tx, { tenantId, id }: Who): Promise<string | null> {
  const row = await tx
    .selectFrom('instance')
    .select('node_id')
    .where('tenant_id', '=', tenantId)
    .where('id', '=', id)
    .executeTakeFirst();
  return row?.node_id ?? null;
}

async function probeThere(tx: Tx, core: ResourceCore): Promise<'ready' | Waiting> {
  const { toNode, toName } = await moveOf(tx, core);
  const { disks } = await partsOf(tx, core);
  for (const id of [...disks, core.id]) {
    const there = (await placementsOf(tx, { tenantId: core.tenantId, id })).find(({ nodeId }) => nodeId === toNode);
    if (there?.isCurrent && there.phase === 'ready') continue;
    if (there?.isGone) throw new RhyzomeError('job_failed', `Node ${toName} is gone.`);
    if (there?.isCurrent && there.phase === 'failed') {
      throw new RhyzomeError('job_failed', `Node ${toName}: ${there.failure?.message ?? 'it did not say why'}`);
    }
    const why = there?.failure ? ` tries again: ${there.failure.message}` : ' makes ready.';
    return new Waiting(`Node ${toName}${why}`, there?.isConnected === false, id);
  }
  return 'ready';
}

async function askToSend(tx: Tx, core: ResourceCore): Promise<void> {
  const { id: operationId, fromNode, toNode, toName: node, address, mode, mayStop } = await moveOf(tx, core);
  const { disks } = await partsOf(tx, core);
  const shared = await sharedWith(tx, core.tenantId, core.id, toNode);
  const args: MigrateArguments = { operationId, to: { node, address }, mode, disks, shared, mayStop };
  // The nodes find out by themselves how far an earlier try came.
  await askDeed(tx, core, { id: operationId, nodeId: fromNode, verb: 'migrate', arguments: args, repeatable: true });
}

async function probeSent(tx: Tx, core: ResourceCore): Promise<'moved' | Waiting> {
  const move = await moveOf(tx, core);
  const { id, fromName } = move;
  let answer: Awaited<ReturnType<typeof probeDeed>> | undefined;
  try {
    answer = await probeDeed(tx, core, id);
  } catch (error) {
    // A fence ends what a node was asked for.
    const isEnded = error instanceof RhyzomeError && error.details.extensions?.reason === 'node_gone';
    if (!isEnded || !isLost(move)) throw error;
  }
  if (answer && !(answer instanceof Waiting)) return 'moved';
  if (isLost(move)) {
    const whose = await settleWithout(tx, core);
    if (whose instanceof Waiting) return whose;
    if (whose.isThere) {
      await tellAnew(tx, core, 'there');
      return 'moved';
    }
    throw new RhyzomeError('job_failed', `Node ${fromName} is gone; what it was sending has not come whole.`, {
      extensions: { reason: 'node_gone', node: fromName },
    });
  }
  return answer?.outside ? answer : new Waiting(`Node ${fromName} is sending it.`);
}

/** What the node that had it says does not count any more: it is behind a fence, or was, and the other one is asked. */
function isLost({ isFromGone, isAskedAnew }: Move): boolean {
  return isFromGone || isAskedAnew;
}

/**
 * The deed itself goes first, so that no later stream asks for it again. A node that is gone is told nothing: should it come
 * back, it is to find what was settled without it.
 */
async function askToAbandon(tx: Tx, core: ResourceCore): Promise<void> {
  const move = await moveOf(tx, core);
  await withdrawDeed(tx, core, move.id);
  if (!isLost(move)) await tellToAbandon(tx, core);
}

/** Whoever asks the other node without this one from now on, knows that it may have it back. */
async function tellToAbandon(tx: Tx, core: ResourceCore, settled?: AbandonArguments['settled']): Promise<void> {
  const { id: operationId, fromNode, toName: node, address, abandonId } = await moveOf(tx, core);
  await tx
    .updateTable('move')
    .set({ told_back_at: new Date() })
    .where('tenant_id', '=', core.tenantId)
    .where('id', '=', operationId)
    .execute();
  // It may take in nothing any more.
  const args: AbandonArguments = {
    operationId,
    ...(address && { to: { node, address } }),
    ...(settled && { settled }),
  };
  await askDeed(tx, core, { id: abandonId, nodeId: fromNode, verb: 'abandon', arguments: args, repeatable: true });
}

/** Taken back; or it was there already, and is let be there. */
async function probeAbandoned(tx: Tx, core: ResourceCore): Promise<true | Waiting> {
  const move = await moveOf(tx, core);
  const { abandonId, fromName } = move;
  if (isLost(move)) return abandonWithout(tx, core);
  // It was gone when the way back began.
  if (!move.isToldBack) {
    await tellToAbandon(tx, core);
    return new Waiting(`Node ${fromName} is asked to have it back.`);
  }
  let answer: Awaited<ReturnType<typeof probeDeed>>;
  try {
    answer = await probeDeed(tx, core, abandonId);
  } catch (error) {
    if (!(error instanceof RhyzomeError)) throw error;
    await tellAnew(tx, core);
    return new Waiting(`Node ${fromName} is asked again: ${error.message}`);
  }
  if (answer instanceof Waiting) return answer;
  if (answer.result?.moved === true) await switchOver(tx, core);
  return true;
}

/** A node keeps what became of a deed: another try is another deed. */
async function tellAnew(tx: Tx, core: ResourceCore, settled?: AbandonArguments['settled']): Promise<void> {
  const { id, abandonId } = await moveOf(tx, core);
  await withdrawDeed(tx, core, abandonId);
  await tx
    .updateTable('move')
    .set({ abandon_id: newId() })
    .where('tenant_id', '=', core.tenantId)
    .where('id', '=', id)
    .execute();
  await tellToAbandon(tx, core, settled);
}

/** Nobody waits for the node that had it; it is told whose the machine is when it is back, or now if it lives in spite of its fence. */
async function abandonWithout(tx: Tx, core: ResourceCore): Promise<true | Waiting> {
  const whose = await settleWithout(tx, core);
  if (whose instanceof Waiting) return whose;
  await tellAnew(tx, core, whose.isThere ? 'there' : whose.isForGood ? 'here' : undefined);
  if (whose.isThere) await switchOver(tx, core);
  return true;
}

interface Settled {
  /** It is the other node's. */
  isThere: boolean;
  /** That one has said that it never will be. */
  isForGood: boolean;
}

/**
 * The node that had it says nothing any more. The other one is told that: from then on it hears only the controller, and what it
 * was told until then decides, once and for all, also when the first one is back meanwhile. What is whole there, and off where
 * it was by that node's own word, is let run there, unless that node was told afterwards that it may have it back.
 */
async function settleWithout(tx: Tx, core: ResourceCore): Promise<Settled | Waiting> {
  const { toNode, toName, isAskedAnew } = await moveOf(tx, core);
  const there = (await placementsOf(tx, core)).find(({ nodeId }) => nodeId === toNode);
  if (!there?.isPresent || there.isGone) return { isThere: false, isForGood: false };
  if (!isAskedAnew) await askAnew(tx, core);
  if (!isAskedAnew || !there.isCurrent || there.phase === 'progressing') {
    const why =
      isAskedAnew && there.failure ? ` tries again: ${there.failure.message}` : ' is asked what has come of it.';
    return new Waiting(`Node ${toName}${why}`, !there.isConnected, core.id);
  }
  const { powerState = 'paused', closed } = there.status ?? {};
  return { isThere: powerState !== 'paused', isForGood: closed === true };
}

async function askAnew(tx: Tx, core: ResourceCore): Promise<void> {
  const { id: operationId, abandonId, fromName: from, toNode, mode, isToldBack } = await moveOf(tx, core);
  await awaitInstance(tx, core, toNode, { operationId, from, mode, fenced: { mayRun: !isToldBack } }, true);
  // Whatever it is to do about it when it is back, it is told then.
  for (const id of [operationId, abandonId]) await withdrawDeed(tx, core, id);
  await tx
    .updateTable('move')
    .set({ asked_anew_at: new Date() })
    .where('tenant_id', '=', core.tenantId)
    .where('id', '=', operationId)
    .execute();
}

/** It is the other node's: all that says where it is, says so from this transaction on. */
async function switchOver(tx: Tx, core: ResourceCore): Promise<void> {
  const { id, fromNode, toNode } = await moveOf(tx, core);
  const { tenantId } = core;
  const { disks, networks } = await partsOf(tx, core);
  // Before the room, whose rows nobody holds while waiting for others'.
  await lockNetworks(tx, tenantId, networks);
  await tx
    .updateTable('instance')
    .set({ node_id: toNode })
    .where('tenant_id', '=', tenantId)
    .where('id', '=', core.id)
    .execute();
  await sql`select move_reservations(${id})`.execute(tx);
  for (const disk of disks) await moveDisk(tx, { tenantId, id: disk }, toNode);
  await tellInstance(tx, core);
  await leave(tx, core, fromNode);
  await refreshNetworks(tx, tenantId, networks);
}
