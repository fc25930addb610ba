/** `rhyzome node drain`: moves all machines and disks of a node to others. */
import { Command } from 'commander';
import type { Context } from '../context.js';
import type { DrainResult } from '../drain.js';
import { exitStatus } from '../exit-status.js';
import { wholeNumber } from '../option-values.js';
import { table } from '../table.js';

interface Flags {
  atOnce: number;
  mayStop?: boolean;
  purgeDeleted?: boolean;
}

export function drainCommand(context: Context): Command {
  return new Command('drain')
    .description('move all machines and disks of a node to others; it takes no new ones until `node uncordon`')
    .argument('<idOrName>')
    .option('--at-once <n>', 'how many move at the same time', wholeNumber(1, 32), 2)
    .option('--may-stop', 'those that cannot move while they run are stopped, moved and started')
    .option('--purge-deleted', 'disks that were deleted and could be had back are removed for good')
    .addHelpText(
      'after',
      '\nCtrl-C begins no more moves; those under way end by themselves, and the same command goes on.',
    )
    .action(async (idOrName: string, flags: Flags) => {
      const [{ drainNode, findNode }, { drain }, { Moves }, { moveRouter }] = await Promise.all([
        import('../nodes.js'),
        import('../drain.js'),
        import('../moves.js'),
        import('../routers.js'),
      ]);
      const stop = new AbortController();
      const onSignal = () => stop.abort();
      process.once('SIGINT', onSignal);
      process.once('SIGTERM', onSignal);
      try {
        await context.database(async (db) => {
          const node = await context.changeOn(db, async ({ tx, audit }) => {
            const { id, name } = await findNode(tx, idOrName);
            if (await drainNode(tx, id)) {
              await audit({
                ...{ tenantId: 'system', action: 'node.drain', kind: 'node', resourceId: id, resourceName: name },
              });
            }
            return { id, name };
          });
          const result = await drain(db, await Moves.open(db), {
            nodeId: node.id,
            atOnce: flags.atOnce,
            mayStop: flags.mayStop ?? false,
            purge: flags.purgeDeleted ?? false,
            stopping: stop.signal,
            tell: (text) => context.tell(text),
            moveRouter: (router) => moveRouter(context, db, { ...router, wait: true }),
          });
          if (result.left.length > 0) context.status = exitStatus.refused;
          context.show({ node: node.name, stopped: stop.signal.aborted, ...result }, words(node.name, result));
        });
      } finally {
        process.off('SIGINT', onSignal);
        process.off('SIGTERM', onSignal);
      }
    });
}

function words(name: string, result: DrainResult): string {
  const { moved, movedDisks, purged, left } = result;
  const counts = [
    ...[`${moved} ${moved === 1 ? 'machine' : 'machines'}`],
    ...(movedDisks > 0 ? [`${movedDisks} ${movedDisks === 1 ? 'disk' : 'disks'}`] : []),
  ];
  const done = `Moved ${counts.join(' and ')} from node ${name}${purged > 0 ? `, purged ${purged} deleted disks` : ''}`;
  if (left.length === 0) return `${done}; nothing is left there.`;
  const rows = left.map(({ kind, tenant, name: what, why }) => [kind, tenant, what, why]);
  return `${done}; left there:\n\n${table(['KIND', 'TENANT', 'NAME', 'WHY'], rows)}`;
}
