/** The transaction of a change under its client's conditions: replayed when it was done before, rolled back on a dry run. */
import { sql } from 'kysely';
import { type Database, isWorthRepeating, type Tx } from '#libs/db';
import type { ChangeOptions } from './caller.js';
import { keepAnswer, replayOrBegin, type StoredAnswer } from './idempotency.js';

/** Rolls a dry run back, after everything was done as for real. */
class DryRunDone extends Error {
  override readonly name = 'DryRunDone';
  constructor(readonly answer: StoredAnswer) {
    super('dry run');
  }
}

export interface Replay {
  authorize(tx: Tx, stored: StoredAnswer): Promise<StoredAnswer | void>;
}

/**
 * Runs `work` in one transaction of the tenant and keeps its answer under the idempotency key, if there is one.
 * `replay`: whoever has lost the permission since gets a refusal and not the stored answer; `authorize` throws it, and may
 * leave out of the answer what is no longer for whoever asks. A dry run answers 200 with what would be, without a job.
 */
export async function runChange(
  db: Database,
  tenantId: string,
  options: ChangeOptions,
  replay: boolean | Replay,
  work: (tx: Tx) => Promise<StoredAnswer>,
): Promise<StoredAnswer & { isReplay: boolean }> {
  const { dryRun, idempotency } = options;
  try {
    return await unlessEndedByOthers(() =>
      db.tenantTransaction(tenantId, async (tx) => {
        if (idempotency && !dryRun && replay) {
          const stored = await replayOrBegin(tx, tenantId, idempotency);
          const shown = stored && replay !== true && (await replay.authorize(tx, stored));
          if (stored) return { ...(shown || stored), isReplay: true };
        }
        const answer = await work(tx);
        if (dryRun) {
          await chargeNow(tx);
          throw new DryRunDone(withoutJob(answer));
        }
        if (idempotency) await keepAnswer(tx, tenantId, idempotency, answer);
        return { ...answer, isReplay: false };
      }),
    );
  } catch (error) {
    if (error instanceof DryRunDone) return { ...error.answer, isReplay: false };
    throw error;
  }
}

/** Quotas are charged when a transaction ends, which a dry run never does. First all charges, then what they come to. */
async function chargeNow(tx: Tx): Promise<void> {
  await sql`set constraints charge_quota immediate`.execute(tx);
  await sql`set constraints all immediate`.execute(tx);
}

function withoutJob({ headers, body }: StoredAnswer): StoredAnswer {
  const { job: _job, ...rest } = (body ?? {}) as Record<string, unknown>;
  const { location: _location, ...others } = headers;
  return { status: 200, headers: others, body: rest };
}

const TRIES = 5;

/**
 * Changes of resources that hang together (a disk that is attached while its machine is removed) may lock them crosswise;
 * PostgreSQL ends one of the two then, and done again it finds what the other has made. Likewise what a migration came in between.
 */
async function unlessEndedByOthers<T>(work: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await work();
    } catch (error) {
      if (attempt === TRIES || !isWorthRepeating(error)) throw error;
    }
  }
}
