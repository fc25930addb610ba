/** What becomes of a job's row as the job gets on. */
import { sql, type UpdateObject } from 'kysely';
import type { StepLimits } from '#libs/core';
import type { DB } from '#libs/db';
import { ALARM_AFTER_MS } from './limits.js';
import { later } from './queue.js';

/** What the job's row says of a step that is done. */
export interface Done {
  message: string;
  cancellable?: boolean;
  /** Whose news wake it, too. */
  waitsFor?: string;
}

/** After the step of this number; `total`: how many there will be, for the progress. */
export function afterStep(
  ordinal: number,
  total: number,
  { message, cancellable = true, waitsFor }: Done,
  { alarm }: StepLimits,
): UpdateObject<DB, 'job'> {
  return {
    progress: Math.min(95, Math.floor((100 * ordinal) / Math.max(total, ordinal))),
    message,
    failures: 0,
    crashes: 0,
    ...(alarm === false && { alarm_at: later(ALARM_AFTER_MS) }),
    ...(!cancellable && { cancellable: false }),
    ...(waitsFor !== undefined && { waits_for: waitsFor }),
  };
}

/** The job may be as late as this step: only then is somebody told, and of what its user keeps waiting nobody. */
export function alarmOf({ alarm, deadlineMs }: StepLimits): UpdateObject<DB, 'job'> {
  if (alarm === false) return { alarm_at: null };
  return deadlineMs ? { alarm_at: sql<Date>`greatest(alarm_at, ${later((2 * deadlineMs) / 3)})` } : {};
}
