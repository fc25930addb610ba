/** `rhyzome instance`: machines of all tenants, where the administrator decides about them. */
import { Command } from 'commander';
import type { Context } from '../context.js';
import { CliError, exitStatus } from '../exit-status.js';
import { Moves, outcomeOf } from '../moves.js';
import { type OfTenant, ofTenant } from '../option-values.js';

export function instanceCommand(context: Context): Command {
  return new Command('instance').description('machines of all tenants').addCommand(migrate(context));
}

interface Flags {
  to?: string;
  mayStop?: boolean;
  wait: boolean;
}

function migrate(context: Context): Command {
  return new Command('migrate')
    .description('move a machine to another node, while it runs where that is possible')
    .argument('<tenant/name>', 'whose it is, and its name or id', ofTenant)
    .option('--to <node>', 'to this node (default: one with room)')
    .option('--may-stop', 'it may be stopped for it and started again, where it cannot move while it runs')
    .option('--no-wait', 'do not wait for the end')
    .action(async ({ tenantId, name }: OfTenant, flags: Flags) => {
      const { jobView } = await import('#libs/resources');
      await context.database(async (db) => {
        const moves = await Moves.open(db);
        const id = await moves.begin(tenantId, name, {
          ...(flags.to !== undefined && { node: flags.to }),
          ...(flags.mayStop && { mayStop: true }),
        });
        let told = '';
        const tell = (message: string | null) => {
          if (message && message !== told) context.tell(message);
          told = message ?? told;
        };
        const job = flags.wait ? await moves.ended(id, (now) => tell(now.message)) : await moves.job(id);
        if (job.finished_at && job.state !== 'succeeded') {
          throw new CliError(exitStatus.refused, 'job_failed', `${tenantId}/${name} was not moved: ${outcomeOf(job)}`);
        }
        const words = flags.wait ? `Moved ${tenantId}/${name}.` : `Job ${id} moves ${tenantId}/${name}.`;
        context.show({ tenant: tenantId, ...jobView(job) }, words);
      });
    });
}
