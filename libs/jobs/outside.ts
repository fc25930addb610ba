/**
 * The part of a step that takes long and needs no transaction: fetching, hashing. It runs while the job's row is looked at,
 * so that a cancelled job, a lost lease or the end of the process aborts it. Only so many run at once, and of one tenant
 * fewer still: slow work outside must not take the workers from everybody else.
 */
import { sql } from 'kysely';
import { Waiting } from '#libs/core';
import type { Database } from '#libs/db';
import { stepTimedOut, UNDO_TRY_MS } from './limits.js';
import { later } from './queue.js';
import { type JobRow, LeaseLost } from './rows.js';

/** The job was cancelled while it ran forwards. */
export class CancelRequested extends Error {
  override readonly name = 'CancelRequested';
}

/** The process ends; the job goes on elsewhere, at once. */
export class Stopping extends Error {
  override readonly name = 'Stopping';
}

/** Ends a run whose job has to wait; not a failure. */
export class Parked extends Error {
  override readonly name = 'Parked';
  constructor(
    readonly waitingFor: Waiting,
    readonly retryMs: number,
    /** The transaction that looked has given the job back already. */
    readonly isGivenBack = false,
  ) {
    super(waitingFor.message);
  }
}

/** How often the job's row is looked at, and how long it may be out of sight before the lease counts as lost. */
const LOOK_MS = 500;
const OUT_OF_SIGHT_MS = 6_000;
const TURN_MS = 1_000;

/** A step whose deadline stands in its row, and is moved on while it gets on. */
interface TimedStep {
  ordinal: number;
  name: string;
  deadlineMs: number;
  progress?: () => Promise<number>;
}

interface OutsideRun {
  /** Whether a cancellation ends it. */
  phase: 'do' | 'undo';
  timed?: TimedStep;
}

export class OutsideWork {
  private readonly running = new Map<string, number>();
  private readonly stopping = new AbortController();

  constructor(
    private readonly db: Database,
    private readonly most: number,
    private readonly mostOfTenant: number,
  ) {}

  /** Aborts what runs, and what is begun from now on. */
  stop(): void {
    this.stopping.abort(new Stopping('the process ends'));
  }

  /** Between two steps. Throws Stopping. */
  assertGoesOn(): void {
    this.stopping.signal.throwIfAborted();
  }

  /**
   * Runs `work` for the job that holds this lease. Throws Parked where its turn has not come, and CancelRequested, LeaseLost,
   * Stopping or RhyzomeError `step_timed_out` where it was aborted, whatever `work` made of that.
   */
  async run<T>(lease: JobRow, work: (signal: AbortSignal) => Promise<T>, run: OutsideRun): Promise<T> {
    const { tenant_id: tenantId } = lease;
    const ofTenant = this.running.get(tenantId) ?? 0;
    const all = [...this.running.values()].reduce((sum, count) => sum + count, 0);
    if (ofTenant >= this.mostOfTenant || all >= this.most) {
      throw new Parked(new Waiting('Other work of this sort goes first.'), TURN_MS);
    }
    this.running.set(tenantId, ofTenant + 1);
    const gone = new AbortController();
    const signal = AbortSignal.any([gone.signal, this.stopping.signal]);
    const end = this.watch(lease, run, gone);
    try {
      signal.throwIfAborted();
      const result = await work(signal);
      signal.throwIfAborted();
      return result;
    } catch (error) {
      throw signal.aborted ? signal.reason : error;
    } finally {
      end();
      const left = this.running.get(tenantId)! - 1;
      if (left === 0) this.running.delete(tenantId);
      else this.running.set(tenantId, left);
    }
  }

  /** Looks at the job's row until the returned function is called. */
  private watch(lease: JobRow, run: OutsideRun, gone: AbortController): () => void {
    const begunAt = performance.now();
    let seenAt = begunAt;
    let looking = false;
    let reached: number | undefined;
    const look = async () => {
      if (run.timed?.progress) {
        // Where it cannot be asked how far it is, it has not got on.
        const now = await run.timed.progress().catch(() => reached);
        if (reached !== undefined && now !== reached) await this.moveDeadline(lease, run.timed);
        reached = now;
      }
      const reason = await this.reasonToEnd(lease, run);
      if (reason) gone.abort(reason);
      seenAt = performance.now();
    };
    const timer = setInterval(async () => {
      const now = performance.now();
      if (now - seenAt > OUT_OF_SIGHT_MS) gone.abort(new LeaseLost(`job ${lease.id} is out of sight`));
      if (run.phase === 'undo' && now - begunAt > UNDO_TRY_MS) gone.abort(new Error('the undo took too long'));
      if (looking) return;
      looking = true;
      try {
        await look();
      } catch {
        // The database is away: what was seen last holds for a while.
      } finally {
        looking = false;
      }
    }, LOOK_MS);
    return () => clearInterval(timer);
  }

  private async reasonToEnd(lease: JobRow, { phase, timed }: OutsideRun): Promise<Error | undefined> {
    const query = this.db.builder
      .selectFrom('job as j')
      .leftJoin('job_step as s', (join) =>
        join
          .onRef('s.tenant_id', '=', 'j.tenant_id')
          .onRef('s.job_id', '=', 'j.id')
          .on('s.ordinal', '=', timed?.ordinal ?? 0),
      )
      .select(['j.phase', 'j.fence', 'j.finished_at'])
      .select(sql<boolean>`coalesce(s.deadline_at < now(), false)`.as('is_late'))
      .where('j.tenant_id', '=', lease.tenant_id)
      .where('j.id', '=', lease.id);
    const [row] = await this.db.tenantRead(lease.tenant_id, query.compile());
    if (!row || row.fence !== lease.fence || row.finished_at) return new LeaseLost(`job ${lease.id} is no longer held`);
    if (phase === 'do' && row.phase === 'undo') return new CancelRequested();
    return timed && row.is_late ? stepTimedOut(timed.name, timed.deadlineMs, null) : undefined;
  }

  /** Only who holds the job says that it gets on. */
  private async moveDeadline(lease: JobRow, { ordinal, deadlineMs }: TimedStep): Promise<void> {
    await this.db.tenantTransaction(lease.tenant_id, (tx) =>
      sql`update job_step s set deadline_at = ${later(deadlineMs)} from job j
        where s.tenant_id = ${lease.tenant_id} and s.job_id = ${lease.id} and s.ordinal = ${ordinal}
          and j.tenant_id = s.tenant_id and j.id = s.job_id and j.fence = ${lease.fence}
          and s.deadline_at < ${later(0.9 * deadlineMs)}`.execute(tx),
    );
  }
}
