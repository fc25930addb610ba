/** Machines and disks moved by the administrator: asks the pipeline as the administrator in their tenant, and looks at their jobs. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Database } from '#libs/db';
import type { JobRow } from '#libs/jobs';
import type { KindDefinition, Pipeline } from '#libs/resources';
import { administrator } from './context.js';

const LOOK_MS = 300;

export interface MoveBody {
  node?: string;
  mayStop?: boolean;
}

export type MovableKind = 'instance' | 'disk';

export class Moves {
  private constructor(
    private readonly db: Database,
    private readonly pipeline: Pipeline,
    private readonly kinds: Record<MovableKind, KindDefinition>,
  ) {}

  static async open(db: Database): Promise<Moves> {
    const [{ KindRegistry, Pipeline }, { kinds }] = await Promise.all([
      import('#libs/resources'),
      import('#libs/kinds'),
    ]);
    const registry = new KindRegistry(kinds);
    const both = { instance: registry.get('instance'), disk: registry.get('disk') };
    return new Moves(db, new Pipeline(db, registry), both);
  }

  /** Asks for a move; gives its job's id. Throws RhyzomeError as the action does. */
  async begin(kind: MovableKind, tenantId: string, idOrName: string, body: MoveBody): Promise<string> {
    const [{ adminActor }, { newId }] = await Promise.all([import('#libs/auth'), import('#libs/core')]);
    const caller = { actor: adminActor(tenantId, administrator()), requestId: newId() };
    const { jobId } = await this.pipeline.act(caller, this.kinds[kind], idOrName, 'migrate', body);
    return jobId!;
  }

  job(id: string): Promise<JobRow> {
    return this.db.operatorTransaction((tx) =>
      tx.selectFrom('job').selectAll().where('id', '=', id).executeTakeFirstOrThrow(),
    );
  }

  /** Waits for its end; `look` is told of it now and then. */
  async ended(id: string, look: (job: JobRow) => void): Promise<JobRow> {
    for (;;) {
      const job = await this.job(id);
      look(job);
      if (job.finished_at) return job;
      await sleep(LOOK_MS);
    }
  }
}

/** How it went, in a few words. */
export function outcomeOf({ state, error }: JobRow): string {
  const failure = error as { message: string } | null;
  return state === 'succeeded' ? 'moved' : `${state}${failure ? `: ${failure.message}` : ''}`;
}
