/** What the engine needs of those whose jobs it runs: the work itself, and what its begin and its end mean. */
import type { Tx } from '#libs/db';
import type { JobFailure } from './failure.js';
import type { JobOutcome, JobRow } from './rows.js';
import type { JobRun } from './run.js';

/** What jobs are about; libs/resources implements it. */
export interface JobHandler {
  /** The kind's create, update, remove or action, made of job.step and job.wait. Also replayed backwards. */
  run(row: JobRow, job: JobRun): Promise<void>;
  /** In the transaction of the first claim: the resource's state follows. */
  begin(tx: Tx, row: JobRow): Promise<void>;
  /** In the transaction that gives the job back because another system is away: the resource says what it waits for. */
  held?(tx: Tx, row: JobRow, reason: { code: string; message: string }): Promise<void>;
  /** In the transaction that ends the job: what was claimed is settled. */
  settle(tx: Tx, row: JobRow, outcome: JobOutcome, failure: JobFailure | null): Promise<void>;
}

export interface RunnerLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}
