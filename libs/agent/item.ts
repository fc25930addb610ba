/** One resource in the agent's memory: what is wanted of it, how far that got, and how it is told to the controller. */
import type { Ref } from '#libs/drivers/contract';
import { DriverError } from '#libs/drivers/contract';
import { type Failure, type Observed, Phase } from '#libs/rpc';

export interface Wanted {
  revision: bigint;
  generation: bigint;
  present: boolean;
  spec: unknown;
}

/** How far the wanted revision got. */
export interface Outcome {
  phase: Phase;
  status?: unknown;
  failure?: Failure;
}

export class Item {
  wanted: Wanted | undefined;
  outcome: Outcome | undefined;
  /** The wanted revision was tried at least once. */
  tried = false;
  attempts = 0;
  /** Waits for its turn after others; until then at the latest (ms since the epoch). */
  waitsUntil = 0;
  queued = false;
  confirming = false;
  running: AbortController | undefined;
  timer: NodeJS.Timeout | undefined;
  /** Rises with each end of a try, so that an inventory taken meanwhile is known to be old. */
  tries = 0;
  /** When the last try ended (ms since the epoch). */
  triedAt = 0;

  constructor(readonly ref: Ref) {}

  get key(): string {
    return itemKey(this.ref);
  }

  want(wanted: Wanted, waitsUntil: number): void {
    this.wanted = wanted;
    this.outcome = undefined;
    this.tried = false;
    this.attempts = 0;
    this.waitsUntil = waitsUntil;
    this.running?.abort(new Error('superseded by a newer revision'));
  }

  /** Reached what is wanted. */
  get settled(): boolean {
    const phase = this.outcome?.phase;
    return phase === Phase.PHASE_READY || phase === Phase.PHASE_ABSENT || phase === Phase.PHASE_FAILED;
  }

  /** As the controller is told; without an outcome it is under way. */
  observed(): Observed {
    return {
      ref: this.ref,
      revision: this.wanted?.revision ?? 0n,
      generation: this.wanted?.generation ?? 0n,
      phase: this.outcome?.phase ?? Phase.PHASE_PROGRESSING,
      statusJson: this.outcome?.status === undefined ? '' : JSON.stringify(this.outcome.status),
      failure: this.outcome?.failure,
      observedAt: new Date(),
    };
  }
}

export function itemKey(ref: Ref): string {
  return `${ref.kind}/${ref.id}`;
}

/** What the controller is told of a failure; what is no DriverError is a fault of ours and says so. */
export function failureOf(error: unknown): { failure: Failure; permanent: boolean } {
  if (error instanceof DriverError) {
    return { failure: { code: error.code, message: error.message }, permanent: error.permanent };
  }
  if (error instanceof Error && error.name === 'TimeoutError') {
    return {
      failure: { code: 'timeout', message: 'It took too long on the node; it is tried again.' },
      permanent: false,
    };
  }
  return {
    failure: { code: 'internal', message: 'Something went wrong on the node; its log says what. It is tried again.' },
    permanent: false,
  };
}
