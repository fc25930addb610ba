/**
 * What becomes of a job when a run of it is over: it ends, waits, is tried again, or is undone; and who is told where that
 * does not get on. Each in one transaction in which the lease holds.
 */
import { RhyzomeError } from '#libs/core';
import { committingWith, type Database, isDatabaseAway, type Tx } from '#libs/db';
import { type NewAlarm, raiseAlarm } from './alarms.js';
import { backoffMs, failureOf, isElsewhere, type JobFailure, unknownFailure } from './failure.js';
import type { JobHandler, RunnerLog } from './handler.js';
import { ALARM_AFTER_MS, ALARM_CRASHES, ALARM_TRIES, MAX_OUTAGE_TRIES } from './limits.js';
import { CancelRequested, Parked, Stopping } from './outside.js';
import { giveBack, later, park, writeJob } from './queue.js';
import { holdLease, type JobOutcome, type JobRow, LeaseLost, wakeWorkers } from './rows.js';
import { endWaits, pauseDeadline } from './step-rows.js';

export interface EndingsOptions {
  /** Of a step that does not say so itself. */
  tries: number;
  log: RunnerLog;
  /** Told when a job that was given back is due again. */
  dueIn(delayMs: number): void;
}

const STUCK_RETRY_MS = 60_000;

export class JobEndings {
  constructor(
    private readonly db: Database,
    private readonly handler: JobHandler,
    private readonly options: EndingsOptions,
  ) {}

  /** A worker may die of anything; several that die in the same step die of the step. */
  async noteCrashes(row: JobRow): Promise<void> {
    this.options.log.warn({ job: row.id, crashes: row.crashes }, 'the worker before lost the job in its middle');
    if (row.crashes < ALARM_CRASHES) return;
    const message = `${row.crashes} workers died or were cut off in the same step of the ${whatOf(row)}.`;
    await this.fenced(row, 'no key update', (tx) => raiseAlarm(tx, alarmOf(row, 'job_crashing', message)));
  }

  /** `tries`: of the step that went wrong, where it says so itself. */
  async afterError(row: JobRow, error: unknown, tries = this.options.tries): Promise<void> {
    if (error instanceof Parked) return this.park(row, error);
    if (error instanceof LeaseLost || isDatabaseAway(error)) throw error;
    if (error instanceof CancelRequested || error instanceof Stopping) return this.release(row, 0);
    if (isElsewhere(error) && row.failures < MAX_OUTAGE_TRIES) return this.waitForElsewhere(row, error);
    const known = error instanceof RhyzomeError && error.code !== 'overloaded' && error.code !== 'database_unavailable';
    if (error instanceof RhyzomeError && error.code === 'database_unavailable') throw error;
    const failures = row.failures + 1;
    if (!known && failures < tries) {
      this.options.log.warn({ job: row.id, err: error, failures }, 'a step went wrong; it is tried again');
      return this.release(row, backoffMs(failures), failures);
    }
    if (row.phase === 'undo') return this.undoStuck(row, error, failures);
    const failure = known ? failureOf(error as RhyzomeError) : unknownFailure(row);
    if (!known) this.options.log.error({ job: row.id, err: error }, 'the job failed');
    await this.fenced(row, 'no key update', (tx) => {
      wakeWorkers();
      return giveBack(tx, row, 0, {
        phase: 'undo',
        outcome: 'failed',
        error: JSON.stringify(failure),
        cancellable: false,
        failures: 0,
        crashes: 0,
        alarm_at: later(ALARM_AFTER_MS),
      });
    });
  }

  async end(row: JobRow, outcome: JobOutcome, failure: JobFailure | null): Promise<void> {
    await this.fenced(row, 'update', async (tx, current) => {
      if (outcome === 'succeeded' && current.phase === 'undo') throw new CancelRequested();
      await this.handler.settle(tx, current, outcome, failure);
      if (outcome !== 'succeeded') await endWaits(tx, row);
      await committingWith(tx, () =>
        writeJob(tx, row, {
          state: outcome,
          error: failure ? JSON.stringify(failure) : null,
          cancellable: false,
          finished_at: new Date(),
          lease_owner: null,
          lease_until: null,
          message: null,
          ...(outcome === 'succeeded' && { progress: 100 }),
        }),
      );
    });
  }

  /** Nothing is wrong with the job: it is tried on until the other system is back, and its user sees what it waits for. */
  private async waitForElsewhere(row: JobRow, { code, message }: RhyzomeError): Promise<void> {
    const failures = row.failures + 1;
    const delayMs = backoffMs(failures);
    await this.fenced(row, 'no key update', async (tx, current) => {
      if (row.message !== message) await this.handler.held?.(tx, row, { code, message });
      await pauseDeadline(tx, row);
      const tried = `The ${whatOf(row)} was tried ${failures} times. ${message}`;
      if (failures >= ALARM_TRIES) await raiseAlarm(tx, alarmOf(row, 'job_failing', tried));
      const isCancelling = current.state === 'cancelling';
      await giveBack(tx, row, delayMs, { failures, message, ...(!isCancelling && { state: 'waiting' }) });
    });
    this.options.dueIn(delayMs);
  }

  /** An undo that does not succeed is an alarm, and is tried on: what it leaves behind would be nobody's. */
  private async undoStuck(row: JobRow, error: unknown, failures: number): Promise<void> {
    const fields = { alarm: 'undo_stuck', job: row.id, tenant: row.tenant_id, err: error };
    this.options.log.error(fields, 'an undo does not succeed');
    const said = error instanceof RhyzomeError ? error.message : 'The logs of rhyzome-grpc say why.';
    const message = `What the ${whatOf(row)} had done cannot be undone; it is tried every minute. ${said}`;
    await this.fenced(row, 'no key update', (tx) => raiseAlarm(tx, alarmOf(row, 'undo_stuck', message)));
    const shown = 'Undoing does not succeed; it is tried on, and the operators are told.';
    await this.release(row, STUCK_RETRY_MS, failures, shown);
  }

  private async park(row: JobRow, parked: Parked): Promise<void> {
    if (!parked.isGivenBack) await this.fenced(row, 'no key update', (tx, current) => park(tx, row, current, parked));
    this.options.dueIn(parked.retryMs);
  }

  private async release(row: JobRow, delayMs: number, failures = row.failures, message?: string): Promise<void> {
    await this.fenced(row, 'no key update', (tx) => {
      if (delayMs === 0) wakeWorkers();
      return giveBack(tx, row, delayMs, { failures, ...(message && { message }) });
    });
    this.options.dueIn(delayMs);
  }

  private fenced<T>(
    row: JobRow,
    strength: 'update' | 'no key update',
    work: (tx: Tx, current: JobRow) => Promise<T>,
  ): Promise<T> {
    return this.db.tenantTransaction(row.tenant_id, async (tx) => work(tx, await holdLease(tx, row, strength)));
  }
}

/** As in “the create of instance web”. */
export function whatOf(row: Pick<JobRow, 'action' | 'kind' | 'resource_name'>): string {
  return `${row.action} of ${row.kind} ${row.resource_name}`;
}

/** An alarm about a job, which its end clears. */
export function alarmOf(row: JobRow, code: NewAlarm['code'], message: string): NewAlarm {
  const resource = { kind: row.kind, id: row.resource_id };
  return { tenantId: row.tenant_id, code, cause: row.id, message, resource, jobId: row.id };
}
