/**
 * The interface that every kind implements, and what every resource has in common. It knows neither the database nor
 * the protocols: a kind's class carries its own store.
 */
import type { FieldError } from './errors.js';
import type { Tags } from './tags.js';

export type ResourceState = 'pending' | 'provisioning' | 'ready' | 'updating' | 'deleting' | 'failed';

/** Why something waits or failed, in words that a user can act on. */
export interface Condition {
  type: string;
  status: 'true' | 'false' | 'unknown';
  reason: string;
  message: string;
  /** RFC 3339. */
  lastTransitionTime: string;
  observedGeneration: number;
}

/** What every resource has: who it is and what permissions are decided on. */
export interface ResourceCore {
  id: string;
  tenantId: string;
  kind: string;
  name: string;
  tags: Tags;
  /** Subject that made it, where it is known. */
  createdBy?: string;
}

/** How far a step may go before it is given up, or somebody is told. What is absent follows libs/jobs/limits.ts. */
export interface StepLimits {
  /**
   * How long it may take, by the database's clock and over deaths of workers; then the job fails. False: any time. What
   * waits for something outside (a node that is away, an operator's word) is not counted.
   */
  deadlineMs?: number | false;
  /** Tries before an error that is nobody's fault that can be named fails the job. */
  tries?: number;
  /** False: nobody is told that it takes long, since it is the user who is waited for. */
  alarm?: false;
}

/**
 * A step of a job: a named piece of outside work with its undo beside it. `act` may run again after a crash in its
 * middle, `undo` after a crash before, in or after `act`; both are idempotent. The result of a finished step is stored
 * and given back when the job goes on elsewhere.
 */
export interface JobStep<Tx, Result, Prepared = undefined> extends StepLimits {
  /**
   * What takes long and needs no transaction (fetching, hashing); runs before `act`, which gets what it gives. Repeated
   * whenever `act` is; ends soon once the signal aborts: the job was cancelled, is another worker's, or the process ends.
   */
  outside?(signal: AbortSignal): Promise<Prepared>;
  /** How far `outside` has come, e.g. in bytes: whenever that changes, the deadline begins anew. */
  progress?(): Promise<number>;
  /** Runs in one transaction of the resource's tenant that the job's lease fences. */
  act(tx: Tx, prepared: Prepared): Promise<Result>;
  undo?(tx: Tx, result: Result | undefined): Promise<void>;
  /**
   * The part of the undo that needs no transaction, like `outside`; before `undo`, and again whenever that is. What talks to
   * another system belongs here: a transaction that waits for one keeps the job's row locked, and with it the leases.
   */
  undoOutside?(signal: AbortSignal, result: Result | undefined): Promise<void>;
  /** Asked after `undo` until it says true: what was undone is gone in the world outside, too. */
  undone?(tx: Tx): Promise<true | Waiting>;
  /** Id of another resource whose news the wait after the step is for, where that is known: then it looks once, not twice. */
  newsOf?(result: Result): string | undefined;
  /** Shown to the user while and after the step runs. */
  message?: string;
  /** False: once this step has begun, the job can no longer be cancelled. */
  cancellable?: boolean;
}

/** What a kind's create, update and remove work with. */
export interface Job<Tx = unknown> {
  readonly id: string;
  readonly action: string;
  /** The request as it was stored, e.g. an action's body. */
  readonly request: unknown;
  /** How many steps and waits there will be, for the progress that the user sees. */
  plan(total: number): void;
  step<Result, Prepared = undefined>(name: string, step: JobStep<Tx, Result, Prepared>): Promise<Result>;
  /**
   * Goes on when `probe` returns something other than Waiting; until then the worker is given back. The probe runs
   * whenever somebody wakes the resource's jobs, and from time to time. It throws to fail the job.
   */
  wait<Result>(name: string, probe: (tx: Tx) => Promise<Result | Waiting>, options?: WaitOptions): Promise<Result>;
  /**
   * A step and then the wait for what it asked for. Where there is something to wait for, as there is nearly always, that is
   * written down, and the worker given back, in the step's own transaction. What a node reports of what `newsOf` names cannot
   * come before its commit, as `act` locks that (`desire` of libs/nodes does); so no report is missed. A probe that throws
   * takes `act` back with it.
   */
  ask<Result, Answer>(name: string, asking: Asking<Tx, Result, Answer>): Promise<Answer>;
}

/** A wait by its name. */
export interface Wait<Tx, Answer> extends WaitOptions {
  name: string;
  probe(tx: Tx): Promise<Answer | Waiting>;
}

export interface Asking<Tx, Result, Answer> extends JobStep<Tx, Result> {
  until: Wait<Tx, Answer>;
}

export interface WaitOptions extends StepLimits {
  /** Shown once it is over. */
  message?: string;
  cancellable?: boolean;
  /** True: what the probe waits for tells how far it is; whenever it says something else, the deadline begins anew. */
  tellsProgress?: boolean;
}

/** A probe's answer that shows the user what is waited for. */
export class Waiting {
  constructor(
    readonly message: string,
    /** True: for a node that is away or an operator's word; the job's state says `waiting`. */
    readonly outside: boolean = false,
    /** Id of the resource whose news ends the wait, where that is not the job's own. */
    readonly on?: string,
  ) {}
}

/** One interface for all kinds, behind REST and gRPC. */
export interface Resource<Tx = unknown> {
  /** Fetches the resource from the database by its core (its id). Throws RhyzomeError `not_found`. */
  load(core: ResourceCore): Promise<this>;
  getCore(): ResourceCore;
  /** What is wrong with it, empty when valid; `isNew` on a create. */
  validate(isNew: boolean): Promise<FieldError[]>;
  create(core: ResourceCore, job: Job<Tx>): Promise<void>;
  update(job: Job<Tx>): Promise<void>;
  remove(job: Job<Tx>): Promise<void>;
}
