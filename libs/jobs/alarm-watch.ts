/**
 * Looks for jobs that should have ended by now and have not, whatever they wait for, and tells of them; forgets alarms that
 * were cleared long ago. Each replica looks: what one has told, the others find told.
 */
import { sql } from 'kysely';
import { type Database, isDatabaseAway, type Tx } from '#libs/db';
import { raiseAlarm } from './alarms.js';
import { alarmOf, whatOf } from './endings.js';
import { type JobRow, lockSubject } from './rows.js';

const LOOK_MS = 10_000;
const PRUNE_MS = 3_600_000;
/** At one look; the rest has its turn at the next. */
const MOST_AT_ONCE = 200;
const KEEP_DAYS = 90;

export interface AlarmWatchLog {
  warn(fields: object, message: string): void;
}

export class AlarmWatch {
  private timer: NodeJS.Timeout | undefined;
  private prunedAt = Number.NEGATIVE_INFINITY;
  private stopping = false;
  private running: Promise<void> = Promise.resolve();

  constructor(
    private readonly db: Database,
    private readonly log: AlarmWatchLog,
    private readonly everyMs = LOOK_MS,
  ) {}

  start(): void {
    this.timer = setInterval(() => this.again(), this.everyMs);
    this.again();
  }

  /** Resolves when the look that is under way has ended. */
  async stop(): Promise<void> {
    this.stopping = true;
    clearInterval(this.timer);
    await this.running;
  }

  private again(): void {
    this.running = this.running.then(async () => {
      try {
        await this.look();
        if (performance.now() - this.prunedAt < PRUNE_MS || this.stopping) return;
        await this.prune();
        this.prunedAt = performance.now();
      } catch (error) {
        if (!isDatabaseAway(error)) this.log.warn({ err: error }, 'looking for late jobs failed; it is tried again');
      }
    });
  }

  /** Tells of the jobs that are late. */
  async look(): Promise<void> {
    const late = await this.db.operator
      .selectFrom('job')
      .select(['tenant_id', 'id', 'resource_id'])
      .where('finished_at', 'is', null)
      .where('alarm_at', '<=', sql<Date>`now()`)
      .orderBy('alarm_at')
      .limit(MOST_AT_ONCE)
      .execute();
    for (const job of late) {
      if (this.stopping) return;
      await this.db.operatorTransaction((tx) => raiseLate(tx, job));
    }
  }

  private async prune(): Promise<void> {
    await sql`delete from alarm where cleared_at < now() - make_interval(days => ${KEEP_DAYS})`.execute(
      this.db.operator,
    );
  }
}

async function raiseLate(tx: Tx, { tenant_id, id, resource_id }: Pick<JobRow, 'tenant_id' | 'id' | 'resource_id'>) {
  await lockSubject(tx, tenant_id, resource_id);
  const job = await tx
    .updateTable('job')
    .set({ alarm_at: null })
    .where('tenant_id', '=', tenant_id)
    .where('id', '=', id)
    .where('finished_at', 'is', null)
    .where('alarm_at', '<=', sql<Date>`now()`)
    .returningAll()
    .executeTakeFirst();
  if (job) await raiseAlarm(tx, alarmOf(job, job.phase === 'undo' ? 'undo_stuck' : 'job_overdue', wordsOf(job)));
}

function wordsOf(job: JobRow): string {
  const last = job.message ? ` It says: ${job.message}` : '';
  if (job.phase === 'undo') return `What the ${whatOf(job)} had done is not undone yet; it is tried on.${last}`;
  if (job.started_at === null) return `No worker has begun the ${whatOf(job)} yet; others go first, or none runs.`;
  return `The ${whatOf(job)} should have ended by now, and goes on.${last}`;
}
