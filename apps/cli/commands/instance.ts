/** `rhyzome instance`: machines of all tenants, where the administrator decides about them. */
import { Command } from 'commander';
import type { Context } from '../context.js';
import { moved } from '../moving.js';
import { type OfTenant, ofTenant } from '../option-values.js';

interface Flags {
  to?: string;
  mayStop?: boolean;
  wait: boolean;
}

export function instanceCommand(context: Context): Command {
  return new Command('instance').description('machines of all tenants').addCommand(migrate(context));
}

function migrate(context: Context): Command {
  return new Command('migrate')
    .description('move a machine to another node, while it runs where that is possible')
    .argument('<tenant/name>', 'whose it is, and its name or id', ofTenant)
    .option('--to <node>', 'to this node (default: one with room)')
    .option('--may-stop', 'it may be stopped for it and started again, where it cannot move while it runs')
    .option('--no-wait', 'do not wait for the end')
    .action((whose: OfTenant, { to, mayStop, wait }: Flags) => {
      const body = { ...(to !== undefined && { node: to }), ...(mayStop && { mayStop: true }) };
      return moved(context, 'instance', whose, body, wait);
    });
}
