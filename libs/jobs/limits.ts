/**
 * How long a step may take, how often it is tried, and when somebody is told, where the step does not say so itself. Which
 * steps do, and why, stands in ADR 0031.
 */
import { RhyzomeError, type StepLimits } from '#libs/core';

/** Of a wait for a node that is at work, and of work outside. What takes longer by its nature says so. */
const STEP_DEADLINE_MS = 15 * 60_000;
/** Between two looks: a wake usually ends a wait; this is for wakes that were lost, and for what nobody announces. */
export const POLL_MS = 10_000;
/** Tries of one step before the job fails for an error that is nobody's fault that can be named: about half a minute. */
export const STEP_TRIES = 8;
/** Of what waits for another system; at most 30 s apart, that is a good half a day. */
export const MAX_OUTAGE_TRIES = 2_000;
/** From so many tries on that a step waits for another system, somebody is told: about five minutes. */
export const ALARM_TRIES = 20;
/** Workers that may die in the same step until somebody is told, and until the job fails. */
export const ALARM_CRASHES = 3;
export const MAX_CRASHES = 10;
/** From its request, or from the begin of its undoing, until somebody is told that a job has not ended; as in job.alarm_at. */
export const ALARM_AFTER_MS = 10 * 60_000;

/**
 * Null: none. A removal waits for as long as it takes: what is half gone cannot be had back, and its user could only ask
 * for the same again.
 */
export function deadlineOf(limits: StepLimits, action: string): number | null {
  const { deadlineMs = action === 'delete' ? false : STEP_DEADLINE_MS } = limits;
  return deadlineMs === false ? null : deadlineMs;
}

/** Of one try of an undo's work outside: an undo is never given up, but it is begun anew. */
export const UNDO_TRY_MS = STEP_DEADLINE_MS;

export function stepTimedOut(step: string, deadlineMs: number, waitedFor: string | null): RhyzomeError {
  const last = waitedFor ? ` It last said: ${waitedFor}` : '';
  return new RhyzomeError('step_timed_out', `“${step}” did not get done within ${durationWords(deadlineMs)}.${last}`, {
    extensions: { step },
  });
}

function durationWords(ms: number): string {
  const [unitMs, unit] =
    ms >= 2 * 3_600_000 ? [3_600_000, 'hours'] : ms >= 120_000 ? [60_000, 'minutes'] : [1_000, 's'];
  return `${Math.round((10 * ms) / unitMs) / 10} ${unit}`;
}
