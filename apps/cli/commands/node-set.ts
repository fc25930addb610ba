/** `rhyzome node set`: how much of one node may be promised, where that is not as in the whole installation. */
import { Command, InvalidArgumentError } from 'commander';
import type { Context } from '../context.js';
import type { NodeLimits } from '../nodes.js';
import { factor, limits, orDefault, wholeNumber } from '../option-values.js';

export function setNode(context: Context): Command {
  return new Command('set')
    .description('how much of a node may be promised; “default”: as `rhyzome placement` says. What is there stays')
    .argument('<idOrName>')
    .option('--vcpu-overcommit <factor>', 'so often its processors', orDefault(factor(limits.vcpus)))
    .option('--memory-overcommit <factor>', 'so often its memory', orDefault(factor(limits.memory)))
    .option('--disk-overcommit <factor>', 'so often its disk space', orDefault(factor(limits.disk)))
    .option(
      '--memory-reserve <MiB>',
      'so much of its memory is never promised',
      orDefault(wholeNumber(0, limits.reserveMiB)),
    )
    .action(async (idOrName: string, flags: Flags) => {
      const { memoryReserve, ...factors } = flags;
      const asked = { ...factors, ...(memoryReserve !== undefined && { memoryReserveMiB: memoryReserve }) };
      const wanted: NodeLimits = Object.fromEntries(
        Object.entries(asked).map(([key, value]) => [key, value === 'default' ? null : value]),
      );
      if (Object.keys(wanted).length === 0) throw new InvalidArgumentError('Name at least one option.');
      const { findNode, limitNode } = await import('../nodes.js');
      const node = await context.change(async ({ tx, audit }) => {
        const { id, name } = await findNode(tx, idOrName);
        await limitNode(tx, id, wanted);
        await audit({
          tenantId: 'system',
          action: 'node.set',
          kind: 'node',
          resourceId: id,
          resourceName: name,
          details: { ...wanted },
        });
        return findNode(tx, id);
      });
      const { vcpus, memoryMiB, diskGiB } = node.promisable;
      const over = (['vcpus', 'memoryMiB', 'diskGiB'] as const).filter(
        (key) => node.reserved[key] > node.promisable[key],
      );
      const more =
        over.length > 0 ? ` More than that is promised already: ${over.join(', ')}; it gets nothing new.` : '';
      context.show(
        node,
        `Of node ${node.name} ${vcpus} vcpus, ${memoryMiB} MiB and ${diskGiB} GiB may be promised.${more}`,
      );
    });
}

interface Flags {
  vcpuOvercommit?: number | 'default';
  memoryOvercommit?: number | 'default';
  diskOvercommit?: number | 'default';
  memoryReserve?: number | 'default';
}
