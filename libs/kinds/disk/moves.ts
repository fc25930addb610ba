/**
 * Moves from node to node as rows, of machines with their disks and of disks alone: who may ask for one, where it can go, and
 * what both nodes are told of it.
 */
import { sql } from 'kysely';
import type { Actor } from '#libs/auth';
import { invalid, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import type { MigrationMode } from '#libs/drivers/contract';
import { releaseReservation } from '#libs/nodes';
import type { Who } from '#libs/resources';

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
  /** The sender was told that it has it back, or may have been. */
  isToldBack: boolean;
  /** The sender is gone, or was, and the other node is asked anew what it has: its answer decides, whoever comes back. */
  isAskedAnew: boolean;
}

/** Where machines and disks are is the platform's business, unless its administrators lend it to the tenant. */
export async function refuseTenant(tx: Tx, tenantId: string, actor: Actor | undefined): Promise<void> {
  if (actor === undefined || actor.via === 'admin') return;
  const tenant = await tx.selectFrom('tenant').select('may_migrate').where('id', '=', tenantId).executeTakeFirst();
  if (tenant?.may_migrate) return;
  throw new RhyzomeError(
    'forbidden',
    'The administrators of the platform move machines; they can allow it to your tenant, too.',
  );
}

/**
 * The nodes that could take it: with the same driver, open to others, and without anything left of it from before. One whose
 * disks lie on shared storage goes to nodes that share it, unless another is named. A node that is named and is none of
 * them is told why. `storage`: where all of them make disks; null: on their own, or it is not one for all.
 */
export async function nodesFor(
  tx: Tx,
  core: Who,
  fromNode: string,
  disks: readonly MovedDisk[],
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
  if (!named.isOpen) throw wrongNode('takes in nothing from other nodes: its agent has no `migration.listen`');
  if (!named.isSame) throw wrongNode('has another driver');
  if (named.isLeaving) {
    throw new RhyzomeError('not_ready', `Node ${name} still has something of it from before; wait for that.`);
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

interface MovedDisk {
  id: string;
  storage: string | null;
  snapshots: readonly string[];
}

/** The move of an instance, or of a disk alone, that is under way. */
export async function findMove(tx: Tx, who: Who): Promise<Move | undefined> {
  const result = await sql<Move>`
    select m.id, m.from_node as "fromNode", f.name as "fromName",
      f.gone_at is not null as "isFromGone", m.to_node as "toNode", t.name as "toName",
      t.migration_address as address, m.mode, m.may_stop as "mayStop", m.abandon_id as "abandonId",
      m.told_back_at is not null or exists (select from deed d where d.tenant_id = m.tenant_id and d.id = m.abandon_id)
        as "isToldBack", m.asked_anew_at is not null as "isAskedAnew"
    from move m join node f on f.id = m.from_node join node t on t.id = m.to_node
    where m.tenant_id = ${who.tenantId} and m.resource_id = ${who.id}`.execute(tx);
  return result.rows[0];
}

/** Its job has ended, or another takes its place: the room that it was to have is free. Nothing there is success. */
export async function endMove(tx: Tx, who: Who): Promise<void> {
  const move = await findMove(tx, who);
  if (!move) return;
  await releaseReservation(tx, { tenantId: who.tenantId, id: move.id });
  // A node that is gone is told when it comes back that it may have its machine again; one that was, is told just now.
  const deeds = move.isFromGone || move.isAskedAnew ? [move.id] : [move.id, move.abandonId];
  await tx.deleteFrom('deed').where('tenant_id', '=', who.tenantId).where('id', 'in', deeds).execute();
  await tx.deleteFrom('move').where('tenant_id', '=', who.tenantId).where('id', '=', move.id).execute();
}
