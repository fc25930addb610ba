/** `rhyzome node fence`, and what `rhyzome node show` tells of fences and of what they end. */
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import type { FenceRow } from '#libs/nodes';
import { administrator, type Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import type { HeldAddress, NodeView, Tombstone } from '../nodes.js';
import { table } from '../table.js';

interface Flags {
  confirmOff?: boolean;
  force?: boolean;
}

/** How long nobody may take it up; the servers look every 2 s. */
const TAKE_UP_MS = 10_000;
const LOOK_MS = 250;

export function fence(context: Context): Command {
  return new Command('fence')
    .description('declare a node gone whose machine is off: by the command of grpc.fence, or by your word')
    .argument('<idOrName>')
    .option('--confirm-off', 'you know that the machine is off')
    .option('--force', 'although the node was heard just now')
    .action(async (idOrName: string, flags: Flags) => {
      const node = flags.confirmOff
        ? await byWord(context, idOrName, flags)
        : await byCommand(context, idOrName, flags);
      context.show(
        node,
        `Node ${node.name} is gone (epoch ${node.epoch}). When it comes back, its agent stops first what is no longer its own.`,
      );
    });
}

async function byWord(context: Context, idOrName: string, { force }: Flags): Promise<NodeView> {
  const [{ findNode }, nodes, { KindRegistry }, { kinds }] = await Promise.all([
    import('../nodes.js'),
    import('#libs/nodes'),
    import('#libs/resources'),
    import('#libs/kinds'),
  ]);
  return context.database(async (db) => {
    const fenced = await context.changeOn(db, async ({ tx, audit }) => {
      const { id, name } = await findNode(tx, idOrName);
      const locked = await nodes.lockForFence(tx, id, force);
      const { epoch } = await nodes.fenceByWord(tx, new KindRegistry(kinds), locked, administrator());
      await audit(auditOf(id, name, { how: 'word', epoch }));
      return findNode(tx, id);
    });
    await nodes.wakeJobsOfNode(db, fenced.id);
    return fenced;
  });
}

async function byCommand(context: Context, idOrName: string, { force }: Flags): Promise<NodeView> {
  const [{ findNode }, nodes] = await Promise.all([import('../nodes.js'), import('#libs/nodes')]);
  return context.database(async (db) => {
    const { fenceId, node } = await context.changeOn(db, async ({ tx, audit }) => {
      const found = await findNode(tx, idOrName);
      const locked = await nodes.lockForFence(tx, found.id, force);
      await audit(auditOf(found.id, found.name, { how: 'command' }));
      return { node: found, fenceId: await nodes.askForFence(tx, locked, administrator()) };
    });
    const end = Date.now() + TAKE_UP_MS;
    for (;;) {
      const row = await db.operatorTransaction((tx) => nodes.readFence(tx, fenceId));
      if (row?.state === 'succeeded') return db.operatorTransaction((tx) => findNode(tx, node.id));
      if (!row || row.state === 'failed')
        throw new CliError(
          exitStatus.refused,
          'fence_failed',
          `Node ${node.name} is not fenced: ${row?.detail ?? 'it was removed.'}`,
        );
      const isLate = Date.now() > end && row.attempts === 0;
      if (isLate && (await db.operatorTransaction((tx) => nodes.withdrawFence(tx, fenceId)))) {
        throw new CliError(
          exitStatus.refused,
          'no_fence',
          'No rhyzome-grpc has taken it up: none runs, or none has grpc.fence in its settings. If you know that the machine is off, say --confirm-off.',
        );
      }
      await sleep(LOOK_MS);
    }
  });
}

function auditOf(resourceId: string, resourceName: string, details: object) {
  return {
    tenantId: 'system',
    action: 'node.fence',
    kind: 'node',
    resourceId,
    resourceName,
    details: { ...details },
  };
}

export function fenceView(row: FenceRow) {
  const { id, how, asked_by, asked_at, state, attempts, detail, finished_at } = row;
  return { id, how, state, attempts, detail, askedBy: asked_by, askedAt: asked_at, finishedAt: finished_at };
}

export function fenceWords(fences: readonly FenceRow[]): string {
  if (fences.length === 0) return '';
  const rows = fences.map((f) => [f.asked_at, f.asked_by, f.how, f.state, f.finished_at, f.detail]);
  return `\n\n${table(['FENCE ASKED', 'BY', 'HOW', 'STATE', 'ENDED', 'DETAIL'], rows)}`;
}

export function leftWords(left: { tombstones: Tombstone[]; heldAddresses: HeldAddress[] }): string {
  const tombstones = left.tombstones.map((t) => [t.kind, t.name, t.tenant, t.at, t.id]);
  const held = left.heldAddresses.map((h) => [h.ip, h.network ?? '(public)', h.tenant, h.heldAt]);
  return [
    tombstones.length > 0 ? `\n\n${table(['TOMBSTONE', 'NAME', 'TENANT', 'SINCE', 'ID'], tombstones)}` : '',
    held.length > 0 ? `\n\n${table(['HELD ADDRESS', 'NETWORK', 'TENANT', 'SINCE'], held)}` : '',
  ].join('');
}
