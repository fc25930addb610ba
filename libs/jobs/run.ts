/**
 * One run of a job: replays the kind's work, skipping what is recorded as done. Forwards, it stops at the first thing it
 * has to wait for and gives its worker back. Backwards, it replays up to the first step that never began, and then runs
 * the collected undos in reverse order. Every write first makes sure that the lease still holds.
 */

import { type Job, type JobStep, RhyzomeError, Waiting } from '#libs/core';
import type { Database, Tx } from '#libs/db';
import { CancelRequested, type OutsideWork, Parked } from './outside.js';
import { holdLease, type JobRow, type JobStepRow } from './rows.js';

/** Ends a replay backwards at the first step that never began. */
class Unwinding extends Error {
  override readonly name = 'Unwinding';
}

interface Undo {
  step: JobStepRow;
  undoOutside?: (signal: AbortSignal, result: any) => Promise<void>;
  undo?: (tx: Tx, result: any) => Promise<void>;
  undone?: (tx: Tx) => Promise<true | Waiting>;
}

function undoOf(row: JobStepRow, step: JobStep<Tx, any, any>): Undo {
  return { step: row, undoOutside: step.undoOutside, undo: step.undo, undone: step.undone };
}

/** A wake usually ends a wait; this is for wakes that were lost, and for what nobody announces. */
const POLL_MS = 10_000;

export class JobRun implements Job<Tx> {
  private ordinal: number;
  /** Recorded steps that this run has come past. */
  private replayed = 0;
  private total: number;
  private readonly undos: Undo[] = [];
  private steps: JobStepRow[] = [];

  constructor(
    private readonly db: Database,
    /** The job whose lease is held and which every write checks. */
    private readonly lease: JobRow,
    /** The job whose steps are run: the same, or the one that this one supersedes. */
    private readonly row: JobRow,
    private readonly phase: 'do' | 'undo',
    private readonly outside: OutsideWork,
  ) {
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

  plan(total: number): void {
    this.total = total;
  }

  /** Reads the recorded steps; first thing in every run. */
  async open(): Promise<void> {
    this.steps = await this.db.tenantRead(
      this.row.tenant_id,
      this.db.builder
        .selectFrom('job_step')
        .selectAll()
        .where('tenant_id', '=', this.row.tenant_id)
        .where('job_id', '=', this.row.id)
        .orderBy('ordinal')
        .compile(),
    );
  }

  async step<Result, Prepared = undefined>(name: string, step: JobStep<Tx, Result, Prepared>): Promise<Result> {
    const ordinal = ++this.ordinal;
    const known = this.recorded(ordinal, name);
    if (known) this.undos.push(undoOf(known, step));
    if (known && (known.state === 'succeeded' || this.phase === 'undo')) return known.result as Result;
    if (this.phase === 'undo') throw new Unwinding();
    this.outside.assertGoesOn();
    return this.forward(ordinal, name, step);
  }

  private async forward<Result, Prepared>(
    ordinal: number,
    name: string,
    step: JobStep<Tx, Result, Prepared>,
  ): Promise<Result> {
    const started = new Date();
    const prepared = step.outside ? await this.prepare(ordinal, name, started, step) : undefined;
    return this.fenced(async (tx) => {
      const result = await step.act(tx, prepared as Prepared);
      const stored = await this.record(tx, {
        ordinal,
        name,
        state: 'succeeded',
        started,
        result,
        message: step.message,
      });
      this.undos.push(undoOf(stored, step));
      await this.advance(tx, ordinal, step.message ?? name, step.cancellable);
      return result;
    });
  }

  /** Says that the step has begun, so that its undo is run whatever becomes of it, and then does what is outside. */
  private async prepare<Result, Prepared>(
    ordinal: number,
    name: string,
    started: Date,
    step: JobStep<Tx, Result, Prepared>,
  ): Promise<Prepared> {
    return this.outside.run(this.lease, async (signal) => {
      await this.fenced(async (tx) => {
        await this.record(tx, { ordinal, name, state: 'running', started, message: step.message });
        await this.say(tx, step.message ?? name);
      });
      return step.outside!(signal);
    });
  }

  async wait<Result>(
    name: string,
    probe: (tx: Tx) => Promise<Result | Waiting>,
    options: { message?: string; cancellable?: boolean } = {},
  ): Promise<Result> {
    const ordinal = ++this.ordinal;
    const known = this.recorded(ordinal, name);
    if (known?.state === 'succeeded') return known.result as Result;
    if (this.phase === 'undo') throw new Unwinding();
    this.outside.assertGoesOn();
    const look = () =>
      this.fenced(async (tx) => {
        const answer = await probe(tx);
        const waiting = answer instanceof Waiting;
        if (waiting) await this.waitFor(tx, answer);
        if (waiting && known?.message === answer.message) return answer;
        await this.record(tx, {
          ordinal,
          name,
          state: waiting ? 'waiting' : 'succeeded',
          started: known?.started_at ?? new Date(),
          result: waiting ? undefined : answer,
          message: waiting ? answer.message : options.message,
        });
        if (!waiting) await this.advance(tx, ordinal, options.message ?? name, options.cancellable);
        return answer;
      });
    let outcome = await look();
    // News of another resource that came before it was written down whose are waited for woke nobody: once more.
    if (outcome instanceof Waiting && this.isForeign(outcome)) outcome = await look();
    if (outcome instanceof Waiting) throw new Parked(outcome, POLL_MS);
    return outcome;
  }

  private isForeign({ on }: Waiting): boolean {
    return on !== undefined && on !== this.lease.resource_id;
  }

  /** Writes down whose news wakes the job, beside those of its own resource. */
  private async waitFor(tx: Tx, waiting: Waiting): Promise<void> {
    if (!this.isForeign(waiting)) return;
    await tx
      .updateTable('job')
      .set({ waits_for: waiting.on! })
      .where('tenant_id', '=', this.lease.tenant_id)
      .where('id', '=', this.lease.id)
      .where((eb) => eb('waits_for', 'is distinct from', waiting.on!))
      .execute();
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
    for (const undo of this.undos.reverse()) await this.undoOne(undo);
  }

  private async undoOne({ step, undoOutside, undo, undone }: Undo): Promise<void> {
    if (step.state === 'undone') return;
    this.outside.assertGoesOn();
    if (step.state !== 'undoing') {
      if (undoOutside) await this.outside.run(this.lease, (signal) => undoOutside(signal, step.result), 'undo');
      await this.write(async (tx) => {
        await undo?.(tx, step.result);
        await this.setStepState(tx, step, undone ? 'undoing' : 'undone');
      });
    }
    if (!undone) return;
    const look = () =>
      this.write(async (tx) => {
        const state = await undone(tx);
        if (state === true) await this.setStepState(tx, step, 'undone');
        else await this.waitFor(tx, state);
        return state;
      });
    let answer = await look();
    if (answer !== true && this.isForeign(answer)) answer = await look();
    if (answer !== true) throw new Parked(answer, POLL_MS);
  }

  private recorded(ordinal: number, name: string): JobStepRow | undefined {
    const known = this.steps[ordinal - 1];
    if (known && known.name !== name) {
      // Another version of the program made other steps: going on would skip or repeat the wrong ones.
      throw new RhyzomeError('job_failed', `Step ${ordinal} was recorded as “${known.name}” and is now “${name}”.`);
    }
    if (known) this.replayed++;
    return known;
  }

  /** A transaction of the job's tenant in which the lease holds and nobody has cancelled. */
  private fenced<T>(work: (tx: Tx) => Promise<T>): Promise<T> {
    return this.write(async (tx, current) => {
      if (current.phase === 'undo') throw new CancelRequested();
      return work(tx);
    });
  }

  private write<T>(work: (tx: Tx, current: JobRow) => Promise<T>): Promise<T> {
    return this.db.tenantTransaction(this.lease.tenant_id, async (tx) => work(tx, await holdLease(tx, this.lease)));
  }

  private async record(
    tx: Tx,
    step: { ordinal: number; name: string; state: string; started: Date; result?: unknown; message?: string },
  ): Promise<JobStepRow> {
    const result = step.result === undefined ? null : JSON.stringify(step.result);
    const finished_at = step.state === 'succeeded' ? new Date() : null;
    return tx
      .insertInto('job_step')
      .values({
        tenant_id: this.row.tenant_id,
        job_id: this.row.id,
        ordinal: step.ordinal,
        name: step.name,
        state: step.state,
        message: step.message ?? null,
        result,
        started_at: step.started,
        finished_at,
      })
      .onConflict((oc) =>
        oc
          .columns(['tenant_id', 'job_id', 'ordinal'])
          .doUpdateSet({ state: step.state, message: step.message ?? null, result, finished_at }),
      )
      .returningAll()
      .executeTakeFirstOrThrow();
  }

  private async setStepState(tx: Tx, step: JobStepRow, state: string): Promise<void> {
    await tx
      .updateTable('job_step')
      .set({ state, ...(state === 'undone' && { finished_at: new Date() }) })
      .where('tenant_id', '=', step.tenant_id)
      .where('job_id', '=', step.job_id)
      .where('ordinal', '=', step.ordinal)
      .execute();
    step.state = state;
  }

  private async say(tx: Tx, message: string): Promise<void> {
    await tx
      .updateTable('job')
      .set({ message })
      .where('tenant_id', '=', this.row.tenant_id)
      .where('id', '=', this.row.id)
      .execute();
  }

  private async advance(tx: Tx, ordinal: number, message: string, cancellable = true): Promise<void> {
    await tx
      .updateTable('job')
      .set({
        progress: Math.min(95, Math.floor((100 * ordinal) / Math.max(this.total, ordinal))),
        message,
        failures: 0,
        ...(!cancellable && { cancellable: false }),
      })
      .where('tenant_id', '=', this.row.tenant_id)
      .where('id', '=', this.row.id)
      .execute();
  }
}
