/**
 * Before an instance moves to another node, in the request's own transaction: whether it may, how it can, where to, and
 * the room for it there. What becomes of it then is its job's business.
 */
import { sql } from 'kysely';
import type { Actor } from '#libs/auth';
import { invalid, newId, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import type { MigrationMode } from '#libs/drivers/contract';
import { lockMovable, type MovableDisk } from '#libs/kinds/disk';
import { lockNetworks, nodesWithin } from '#libs/kinds/network';
import { releaseReservation, reserveNode } from '#libs/nodes';
import type { Who } from '#libs/resources';
import { placementChoice } from './claims.js';
import type { InstanceRow } from './rows.js';

export interface MoveWish {
  /** Name of the node to move to; absent: any with room. */
  node?: string;
  /** It may be switched off for it, where it cannot move while it runs. */
  mayStop?: boolean;
}

export interface Move {
  /** The operation that both nodes are told of. */
  id: string;
  fromNode: string;
  fromName: string;
  /** It is behind a fence: it says nothing any more, and runs nothing. */
  isFromGone: boolean;
  toNode: string;
  toName: string;
  /** host:port of the node that takes it in. */
  address: string;
  mode: MigrationMode;
  mayStop: boolean;
  abandonId: string;
}

/**
 * Takes the room on another node and writes down the move. Throws RhyzomeError `forbidden`, `not_ready`, `busy`,
 * `no_capacity`; `invalid` for a node that there is not, or that cannot take it.
 */
export async function claimMove(
  tx: Tx,
  core: ResourceCore,
  row: InstanceRow,
  wish: MoveWish,
  actor: Actor | undefined,
): Promise<void> {
  await refuseTenant(tx, core.tenantId, actor);
  if (!row.node_id) throw new RhyzomeError('not_ready', 'The instance is on no node.');
  const networks = row.interfaces.map(({ network }) => network);
  await lockNetworks(tx, core.tenantId, networks);
  const disks = await lockMovable(tx, core.tenantId, core.id);
  const mayStop = wish.mayStop ?? false;
  const { nodes, storage } = await nodesFor(tx, core, row.node_id, disks, wish.node);
  // What stays on shared storage neither has to be off for it, nor takes room a second time.
  const sent = disks.filter((disk) => disk.storage === null || disk.storage !== storage);
  const mode = modeOf(row, sent, mayStop);
  const choice = await placementChoice(tx, core, row.placement ?? undefined);
  const id = newId();
  const diskGiB = sent.reduce((sum, { sizeGiB }) => sum + sizeGiB, 0);
  const toNode = await reserveNode(
    tx,
    { tenantId: core.tenantId, id, kind: 'instance' },
    { vcpus: row.vcpus, memoryMiB: row.memory_mib, diskGiB },
    {
      ...choice,
      required: [
        {
          name: 'node',
          asks: storage ? `another on shared storage ${storage} that takes it in` : 'another that takes it in',
          only: new Set(nodes),
        },
        ...(choice.required ?? []),
        ...(await nodesWithin(tx, core.tenantId, networks, core.id)),
      ],
    },
  );
  await tx
    .insertInto('move')
    .values({
      tenant_id: core.tenantId,
      id,
      resource_id: core.id,
      from_node: row.node_id,
      to_node: toNode,
      mode,
      may_stop: mayStop,
      abandon_id: newId(),
    })
    .execute();
}

/** Where its machines are is the platform's business, unless its administrators lend it to the tenant. */
async function refuseTenant(tx: Tx, tenantId: string, actor: Actor | undefined): Promise<void> {
  if (actor === undefined || actor.via === 'admin') return;
  const tenant = await tx.selectFrom('tenant').select('may_migrate').where('id', '=', tenantId).executeTakeFirst();
  if (tenant?.may_migrate) return;
  throw new RhyzomeError(
    'forbidden',
    'The administrators of the platform move machines; they can allow it to your tenant, too.',
  );
}

function modeOf({ power_state: seen }: InstanceRow, disks: readonly MovableDisk[], mayStop: boolean): MigrationMode {
  if (seen === 'stopped') return 'cold';
  if (seen !== 'running') {
    throw new RhyzomeError('not_ready', `Its power state is ${seen}; it can be moved when it runs or is stopped.`);
  }
  const withSnapshots = disks.filter(({ snapshots }) => snapshots.length > 0).map(({ name }) => name);
  if (withSnapshots.length === 0) return 'live';
  if (mayStop) return 'cold';
  throw new RhyzomeError(
    'not_ready',
    `Snapshots move with their disks only while the machine is off, and ${withSnapshots.join(', ')} has some: ` +
      'stop the instance, or say mayStop to have it stopped, moved and started.',
  );
}

/**
 * The nodes that could take it: with the same driver, open to others, and without anything left of it from before. One whose
 * disks lie on shared storage goes to nodes that share it, unless another is named. A node that is named and is none of
 * them is told why. `storage`: where all of them make disks; null: on their own, or it is not one for all.
 */
async function nodesFor(
  tx: Tx,
  core: Who,
  fromNode: string,
  disks: readonly MovableDisk[],
  name: string | undefined,
): Promise<{ nodes: string[]; storage: string | null }> {
  const things = [core.id, ...disks.flatMap(({ id, snapshots }) => [id, ...snapshots])];
  const result = await sql<NodeFound>`
    select n.id, n.name, n.storage, n.migration_address is not null as "isOpen", n.driver = f.driver as "isSame",
      exists (select 1 from placement p where p.tenant_id = ${core.tenantId} and p.node_id = n.id
        and p.resource_id = any(${things}::uuid[])) as "isLeaving"
    from node n join node f on f.id = ${fromNode} where n.id <> f.id`.execute(tx);
  const fit = result.rows.filter(({ isOpen, isSame, isLeaving }) => isOpen && isSame && !isLeaving);
  if (name === undefined) {
    const [storage = null, ...others] = new Set(disks.flatMap((disk) => disk.storage ?? []));
    if (storage === null || others.length > 0) return { nodes: fit.map(({ id }) => id), storage: null };
    return { nodes: fit.filter((node) => node.storage === storage).map(({ id }) => id), storage };
  }
  const named = result.rows.find((node) => node.name === name);
  if (!named) throw wrongNode('is no other node');
  if (!named.isOpen) throw wrongNode('takes in no machines from other nodes: its agent has no `migration.listen`');
  if (!named.isSame) throw wrongNode('has another driver');
  if (named.isLeaving) {
    throw new RhyzomeError('not_ready', `Node ${name} still has something of the machine from before; wait for it.`);
  }
  return { nodes: [named.id], storage: named.storage };
}

interface NodeFound {
  id: string;
  name: string;
  /** Where it makes disks; null: on its own. */
  storage: string | null;
  isOpen: boolean;
  isSame: boolean;
  isLeaving: boolean;
}

function wrongNode(message: string): RhyzomeError {
  return invalid([{ pointer: '/node', code: 'not_found', message }]);
}

/** The move of an instance that is under way. */
export async function findMove(tx: Tx, who: Who): Promise<Move | undefined> {
  const result = await sql<Move>`
    select m.id, m.from_node as "fromNode", f.name as "fromName",
      f.gone_at is not null as "isFromGone", m.to_node as "toNode", t.name as "toName",
      t.migration_address as address, m.mode, m.may_stop as "mayStop", m.abandon_id as "abandonId"
    from move m join node f on f.id = m.from_node join node t on t.id = m.to_node
    where m.tenant_id = ${who.tenantId} and m.resource_id = ${who.id}`.execute(tx);
  return result.rows[0];
}

/** Its job has ended, or another takes its place: the room that it was to have is free. Nothing there is success. */
export async function endMove(tx: Tx, who: Who): Promise<void> {
  const move = await findMove(tx, who);
  if (!move) return;
  await releaseReservation(tx, { tenantId: who.tenantId, id: move.id });
  // A node that is gone is told when it comes back that it may have its machine again.
  const deeds = move.isFromGone ? [move.id] : [move.id, move.abandonId];
  await tx.deleteFrom('deed').where('tenant_id', '=', who.tenantId).where('id', 'in', deeds).execute();
  await tx.deleteFrom('move').where('tenant_id', '=', who.tenantId).where('id', '=', move.id).execute();
}
