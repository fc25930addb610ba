/**
 * One run of a job: replays the kind's work, skipping what is recorded as done. Forwards, it stops at the first thing it
 * has to wait for and gives its worker back. Backwards, it replays up to the first step that never began, and then runs
 * the collected undos in reverse order. Every write first makes sure that the lease still holds.
 */

import {
  type Asking,
  type Job,
  type JobStep,
  RhyzomeError,
  type StepLimits,
  type Wait,
  Waiting,
  type WaitOptions,
} from '#libs/core';
import { allInOrder, committingWith, type Database, type Tx } from '#libs/db';
import { clearAlarm } from './alarms.js';
import { HeldJob } from './held-job.js';
import { afterStep, alarmOf, type Done } from './job-changes.js';
import { ALARM_CRASHES, ALARM_TRIES, deadlineOf, POLL_MS, stepTimedOut } from './limits.js';
import { type OutsideWork, Parked } from './outside.js';
import { park, writeJob } from './queue.js';
import type { JobRow, JobStepRow } from './rows.js';
import { type DeadlineChange, type RecordedStep, readSteps, recordStep, type StepRecord } from './step-rows.js';
import { Undos } from './undos.js';

/** Ends a replay backwards at the first step that never began. */
class Unwinding extends Error {
  override readonly name = 'Unwinding';
}

export class JobRun implements Job<Tx> {
  /** Every write checks that its lease holds. */
  private readonly job: HeldJob;
  private ordinal: number;
  /** Recorded steps that this run has come past. */
  private replayed = 0;
  private total: number;
  private readonly undos: Undos;
  private steps: RecordedStep[] = [];
  /** What the step that it is at says of itself; undefined: nothing. */
  private limits: StepLimits = {};

  constructor(
    private readonly db: Database,
    lease: JobRow,
    /** The job whose steps are run: the one whose lease is held, or the one that that supersedes. */
    private readonly row: JobRow,
    private readonly phase: 'do' | 'undo',
    private readonly outside: OutsideWork,
    /** Belongs to the run's first transaction. */
    begin?: (tx: Tx) => Promise<void>,
  ) {
    this.job = new HeldJob(db, lease, begin);
    this.undos = new Undos(this.job, outside);
    this.ordinal = 0;
    this.total = 1;
  }

  get id(): string {
    return this.row.id;
  }
  get action(): string {
    return this.row.action;
  }
  get request(): unknown {
    return this.row.request;
  }

  /** Of the step that it has come to, where that says. */
  get tries(): number | undefined {
    return this.limits.tries;
  }

  plan(total: number): void {
    this.total = total;
  }

  /** Reads the recorded steps; first thing in every run but a job's first, which has none. */
  async open(): Promise<void> {
    this.steps = await readSteps(this.db, this.row);
  }

  step<Result, Prepared = undefined>(name: string, step: JobStep<Tx, Result, Prepared>): Promise<Result> {
    return this.take(name, step);
  }

  async ask<Result, Answer>(name: string, { until, ...step }: Asking<Tx, Result, Answer>): Promise<Answer> {
    await this.take(name, step, until);
    return this.wait(until.name, until.probe, until);
  }

  private async take<Result, Prepared>(
    name: string,
    step: JobStep<Tx, Result, Prepared>,
    until?: Wait<Tx, unknown>,
  ): Promise<Result> {
    const ordinal = ++this.ordinal;
    const known = this.recorded(ordinal, name);
    if (known) this.undos.add(known, step);
    if (known && (known.state === 'succeeded' || this.phase === 'undo')) return known.result as Result;
    if (this.phase === 'undo') throw new Unwinding();
    this.outside.assertGoesOn();
    this.limits = step;
    return this.forward({ ordinal, name, known }, step, until);
  }

  private async forward<Result, Prepared>(
    { ordinal, name, known }: { ordinal: number; name: string; known: RecordedStep | undefined },
    step: JobStep<Tx, Result, Prepared>,
    until?: Wait<Tx, unknown>,
  ): Promise<Result> {
    const started = known?.started_at ?? new Date();
    const prepared = step.outside ? await this.prepare(ordinal, name, started, step, known) : undefined;
    const { result, parked } = await this.job.forward(async (tx, current) => {
      const result = await step.act(tx, prepared as Prepared);
      const { message = name, cancellable } = step;
      const record = { ordinal, name, state: 'succeeded', started, result, message: step.message } as const;
      const done = { message, cancellable, waitsFor: step.newsOf?.(result) };
      const waiting = until && (await until.probe(tx));
      if (waiting instanceof Waiting && this.job.isAwaited(waiting, done.waitsFor, current))
        return { result, parked: await this.doneAndParked(tx, current, { record, done, until: until!, waiting }) };
      this.undos.add(await this.done(tx, record, done), step);
      return { result, parked: undefined };
    });
    if (parked) throw parked;
    return result;
  }

  /** Says that the step has begun, so that its undo is run whatever becomes of it, and then does what is outside. */
  private async prepare<Result, Prepared>(
    ordinal: number,
    name: string,
    started: Date,
    step: JobStep<Tx, Result, Prepared>,
    known: RecordedStep | undefined,
  ): Promise<Prepared> {
    const deadlineMs = deadlineOf(step, this.row.action);
    if (known?.is_late && deadlineMs !== null) throw stepTimedOut(name, deadlineMs, known.message);
    const timed = deadlineMs === null ? undefined : { ordinal, name, deadlineMs, progress: step.progress };
    return this.outside.run(
      this.job.row,
      async (signal) => {
        await this.job.forward(async (tx) => {
          const deadline = deadlineMs === null ? null : { keep: deadlineMs };
          const { message } = step;
          await recordStep(tx, this.row, { ordinal, name, state: 'running', started, message, deadline });
          await writeJob(tx, this.row, { message: step.message ?? name, ...(!known && alarmOf(step)) });
        });
        return step.outside!(signal);
      },
      { phase: 'do', timed },
    );
  }

  async wait<Result>(
    name: string,
    probe: (tx: Tx) => Promise<Result | Waiting>,
    options: WaitOptions = {},
  ): Promise<Result> {
    const ordinal = ++this.ordinal;
    const known = this.recorded(ordinal, name);
    if (known?.state === 'succeeded') return known.result as Result;
    if (this.phase === 'undo') throw new Unwinding();
    this.outside.assertGoesOn();
    this.limits = options;
    const deadlineMs = deadlineOf(options, this.row.action);
    const started = known?.started_at ?? new Date();
    const seen = async (tx: Tx) => {
      const answer = await probe(tx);
      if (answer instanceof Waiting) return answer;
      const { message = name, cancellable } = options;
      const record = { ordinal, name, state: 'succeeded', started, result: answer, message: options.message } as const;
      await this.done(tx, record, { message, cancellable });
      return answer;
    };
    return this.job.look('do', this.retryMs(options), seen, (tx, answer) => {
      const deadline = this.deadlineOfWait(known, answer, options);
      const { message } = answer;
      if (known?.message === message && deadline === 'same') return {};
      const change = deadline === 'same' ? keeping(deadlineMs) : deadline;
      return {
        writes: recordStep(tx, this.row, { ordinal, name, state: 'waiting', started, message, deadline: change }),
        changes: known ? {} : alarmOf(options),
      };
    });
  }

  private retryMs(options: WaitOptions): number {
    return Math.min(POLL_MS, deadlineOf(options, this.row.action) ?? POLL_MS);
  }

  /** What becomes of a wait's deadline. Throws RhyzomeError `step_timed_out` where it has passed. */
  private deadlineOfWait(
    known: RecordedStep | undefined,
    answer: Waiting,
    options: WaitOptions,
  ): DeadlineChange | 'same' {
    const deadlineMs = deadlineOf(options, this.row.action);
    const isTimed = deadlineMs !== null && !answer.outside;
    if (!isTimed) return known && known.deadline_at === null ? 'same' : null;
    const getsOn = options.tellsProgress && known?.message !== answer.message;
    if (!known?.deadline_at || getsOn) return { begin: deadlineMs };
    if (known.is_late) throw stepTimedOut(known.name, deadlineMs, answer.message);
    return 'same';
  }

  /**
   * Runs the collected undos, last first. `replay` is the kind's work, run backwards up to where it had come; past the last
   * recorded step it may end in any way, also by throwing what made the job fail.
   */
  async unwind(replay: () => Promise<void>): Promise<void> {
    try {
      await replay();
    } catch (error) {
      if (!(error instanceof Unwinding) && this.replayed < this.steps.length) throw error;
    }
    await this.undos.run();
  }

  private recorded(ordinal: number, name: string): RecordedStep | undefined {
    const known = this.steps[ordinal - 1];
    if (known && known.name !== name) {
      // Another version of the program made other steps: going on would skip or repeat the wrong ones.
      throw new RhyzomeError('job_failed', `Step ${ordinal} was recorded as “${known.name}” and is now “${name}”.`);
    }
    if (known) this.replayed++;
    return known;
  }

  /** Writes that a step is done, together with the commit. */
  private async done(tx: Tx, record: StepRecord, done: Done): Promise<JobStepRow> {
    await this.clearAlarms(tx);
    const [stored] = await committingWith(tx, () =>
      allInOrder([recordStep(tx, this.row, record), this.advance(tx, record.ordinal, done)]),
    );
    return stored;
  }

  /** Writes that a step is done and the wait after it begun, and gives the job back, together with the commit. */
  private async doneAndParked(
    tx: Tx,
    current: JobRow,
    { record, done, until, waiting }: { record: StepRecord; done: Done; until: Wait<Tx, unknown>; waiting: Waiting },
  ): Promise<Parked> {
    const { message } = waiting;
    const deadline = this.deadlineOfWait(undefined, waiting, until);
    const wait: StepRecord = {
      ordinal: record.ordinal + 1,
      name: until.name,
      state: 'waiting',
      started: new Date(),
      message,
      deadline: deadline === 'same' ? null : deadline,
    };
    const changes = { ...afterStep(record.ordinal, this.total, done, this.limits), ...alarmOf(until) };
    const retryMs = this.retryMs(until);
    await this.clearAlarms(tx);
    await committingWith(tx, () =>
      allInOrder([
        recordStep(tx, this.row, record),
        recordStep(tx, this.row, wait),
        park(tx, this.job.row, current, { waitingFor: waiting, retryMs, changes }),
      ]),
    );
    return new Parked(waiting, retryMs, true);
  }

  private async clearAlarms(tx: Tx): Promise<void> {
    const { tenant_id: tenantId, id: cause, failures, crashes } = this.job.row;
    if (failures >= ALARM_TRIES) await clearAlarm(tx, { tenantId, code: 'job_failing', cause });
    if (crashes >= ALARM_CRASHES) await clearAlarm(tx, { tenantId, code: 'job_crashing', cause });
  }

  private advance(tx: Tx, ordinal: number, done: Done): Promise<void> {
    return writeJob(tx, this.row, afterStep(ordinal, this.total, done, this.limits));
  }
}

/** As it is, where it has begun. */
function keeping(deadlineMs: number | null): DeadlineChange {
  return deadlineMs === null ? null : { keep: deadlineMs };
}
