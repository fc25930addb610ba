/** One machine or disk moved by a command: asked for, watched, and told of. */
import { InvalidArgumentError } from 'commander';
import type { Context } from './context.js';
import { CliError, exitStatus } from './exit-status.js';
import { type MovableKind, type MoveBody, Moves, outcomeOf } from './moves.js';

export interface Address {
  tenantId: string;
  name: string;
}

/** Of the form TENANT/NAME. */
export function address(text: string): Address {
  const [, tenantId, name] = /^([a-z0-9]{1,63})\/(.{1,63})$/.exec(text) ?? [];
  if (!tenantId || !name) throw new InvalidArgumentError('It must be of the form TENANT/NAME.');
  return { tenantId, name };
}

/** Throws CliError `job_failed` when it was waited for and did not move. */
export async function moved(
  context: Context,
  kind: MovableKind,
  { tenantId, name }: Address,
  body: MoveBody,
  waits: boolean,
): Promise<void> {
  const { jobView } = await import('#libs/resources');
  await context.database(async (db) => {
    const moves = await Moves.open(db);
    const id = await moves.begin(kind, tenantId, name, body);
    let told = '';
    const tell = (message: string | null) => {
      if (message && message !== told) context.tell(message);
      told = message ?? told;
    };
    const job = waits ? await moves.ended(id, (now) => tell(now.message)) : await moves.job(id);
    if (job.finished_at && job.state !== 'succeeded') {
      throw new CliError(exitStatus.refused, 'job_failed', `${tenantId}/${name} was not moved: ${outcomeOf(job)}`);
    }
    const words = waits ? `Moved ${tenantId}/${name}.` : `Job ${id} moves ${tenantId}/${name}.`;
    context.show({ tenant: tenantId, ...jobView(job) }, words);
  });
}
