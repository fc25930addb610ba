/** One machine or disk moved by a command: asked for, watched, and told of. */
import type { Context } from './context.js';
import { CliError, exitStatus } from './exit-status.js';
import { type MovableKind, type MoveBody, Moves, outcomeOf } from './moves.js';
import type { OfTenant } from './option-values.js';

/** Throws CliError `job_failed` when it was waited for and did not move. */
export async function moved(
  context: Context,
  kind: MovableKind,
  { tenantId, name }: OfTenant,
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
