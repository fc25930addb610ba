/**
 * Before an instance moves to another node, in the request's own transaction: whether it may, how it can, where to, and
 * the room for it there. What becomes of it then is its job's business.
 */
import type { Actor } from '#libs/auth';
import { newId, type ResourceCore, RhyzomeError } from '#libs/core';
import type { Tx } from '#libs/db';
import type { MigrationMode } from '#libs/drivers/contract';
import { lockMovable, type MovableDisk, nodesFor, refuseTenant } from '#libs/kinds/disk';
import { lockNetworks, nodesWithin } from '#libs/kinds/network';
import { reserveNode } from '#libs/nodes';
import { placementChoice } from './claims.js';
import type { InstanceRow } from './rows.js';

export interface MoveWish {
  /** Name of the node to move to; absent: any with room. */
  node?: string;
  /** It may be switched off for it, where it cannot move while it runs. */
  mayStop?: boolean;
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
